
function render({ model, el }) {
  const parsed = new DOMParser().parseFromString(model.get("drawing"), "image/svg+xml");
  const picture = document.importNode(parsed.documentElement, true);
  const lines = picture.querySelectorAll("[data-series]");
  const marks = picture.querySelectorAll("[data-marks]");
  const frame = () => {
    const position = model.get("position");
    const flat = model.get("sliders").reduce((sum, { labels }, place) => sum * labels.length + position[place], 0);
    return model.get("frames")[flat];
  };
  const paint = () => {
    frame().paths.forEach((d, i) => lines[i].setAttribute("d", d));
    frame().marks.forEach((d, i) => marks[i].setAttribute("d", d));
  };
  const readouts = () => frame().readouts;
  return sliders({ model, el }, { picture, paint, readouts, news: ["change:position"], delay: 100 });
}

export default { render };
