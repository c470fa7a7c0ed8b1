
function render({ model, el }) {
  const picture = Object.assign(new Image(), { alt: model.get("alt"), width: model.get("width") });
  let shown = "";
  const paint = () => {
    const last = shown;
    shown = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    picture.src = shown;
    URL.revokeObjectURL(last);
  };
  const readouts = () => model.get("readouts");
  const events = { paintOn: "change:png", readoutsOn: "change:readouts" };
  return sliders({ model, el }, { picture, paint, readouts, ...events, delay: 0 });
}

export default { render };
