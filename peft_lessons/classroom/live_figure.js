
function render({ model, el }) {
  const picture = Object.assign(new Image(), { alt: model.get("alt"), width: model.get("width") });
  const paint = () => {
    const bytes = new Uint8Array(model.get("png").buffer);
    let text = ""; // a blob's URL would be fetched through another process, some milliseconds more
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    picture.src = `data:image/png;base64,${btoa(text)}`;
  };
  const readouts = () => model.get("readouts");
  const events = { paintOn: "change:png", readoutsOn: "change:readouts" };
  return sliders({ model, el }, { picture, paint, readouts, ...events, delay: 0 });
}

export default { render };
