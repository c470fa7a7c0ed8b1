// A figure with one labelled slider per setting. The element `picture` shows it, `paint()` brings it up to date, and
// `readouts()` gives the [name, text] pairs below it, both at each event in `news`.
// `delay` (ms) is how long a slider rests before Python hears where it is.
function sliders({ model, el }, { picture, paint, readouts, news, delay }) {
  const make = (tag, parent, properties = {}) => parent.appendChild(Object.assign(document.createElement(tag), properties));
  const figure = make("figure", el, { className: "peft-theme peft-figure" });
  make("p", figure, { className: "peft-title", textContent: model.get("title") });
  figure.append(picture);
  const controls = make("div", figure, { className: "peft-controls" });
  const status = make("div", figure, { className: "peft-readouts" });
  status.setAttribute("role", "status");
  make("figcaption", figure, { innerHTML: model.get("caption_html") });

  let timer;
  const rows = model.get("sliders").map(({ name, labels }, place) => {
    const label = make("label", controls);
    make("span", label, { textContent: name });
    const input = make("input", label, { type: "range", min: 0, max: labels.length - 1, step: 1 });
    input.disabled = labels.length === 1;
    const value = make("span", controls, { className: "peft-value" });
    value.setAttribute("aria-hidden", "true"); // aria-valuetext says it
    input.addEventListener("input", () => {
      model.set("position", model.get("position").with(place, Number(input.value)));
      clearTimeout(timer);
      if (delay) timer = setTimeout(() => model.save_changes(), delay);
      else model.save_changes();
    });
    return { input, value, labels };
  });

  // The notebook would take the arrow keys and move to another cell.
  controls.addEventListener("keydown", (event) => event.stopPropagation());

  const move = () => {
    model.get("position").forEach((at, place) => {
      const { input, value, labels } = rows[place];
      input.value = at;
      input.setAttribute("aria-valuetext", labels[at]);
      value.textContent = labels[at];
    });
  };
  const tell = () => {
    const table = document.createElement("table");
    for (const [name, text] of readouts()) {
      const row = make("tr", make("tbody", table));
      make("th", row, { scope: "row", textContent: name });
      make("td", row, { textContent: text });
    }
    status.replaceChildren(table);
  };
  const reactions = [["change:position", move], ...news.flatMap((event) => [[event, paint], [event, tell]])];
  for (const [event, react] of reactions) {
    model.on(event, react);
    react();
  }
  return () => reactions.forEach(([event, react]) => model.off(event, react));
}
