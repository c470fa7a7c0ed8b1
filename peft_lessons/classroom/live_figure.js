
function render({ model, el }) {
  const picture = Object.assign(new Image(), { alt: model.get("alt"), width: model.get("width") });
  let shown = "";
  const paint = () => {
    const last = shown;
    shown = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    picture.onload = () => URL.revokeObjectURL(last);
    picture.src = shown;
  };
  const readouts = () => model.get("readouts");
  return sliders({ model, el }, { picture, paint, readouts, repaintOn: "change:png", delay: 0 });
}

export default { render };
