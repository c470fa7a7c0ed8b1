// A figure with one labelled control per setting. The element `picture` shows it, `paint()` brings it up to date, and
// `readouts()` gives the [name, text] pairs below it, both at each event in `news`.
// `delay` (ms) is how long a slider rests before Python hears where it is.
function sliders({ model, el }, { picture, paint, readouts, news, delay }) {
  const figure = make("figure", el, { className: "peft-theme peft-figure" });
  make("p", figure, { className: "peft-title", textContent: model.get("title") });
  figure.append(picture);
  const controls = make("form", figure, { className: "peft-controls" });
  const status = make("div", figure, { className: "peft-readouts" });
  status.setAttribute("role", "status");
  make("figcaption", figure, { innerHTML: model.get("caption_html") });
  keepKeys(figure);
  controls.addEventListener("submit", (event) => event.preventDefault());

  let timer;
  const rows = model.get("sliders").map(({ name, labels, control }, place) =>
    CONTROLS[control](controls, name, labels, place, (at) => {
      model.set("position", model.get("position").with(place, at));
      clearTimeout(timer);
      if (delay) timer = setTimeout(() => model.save_changes(), delay);
      else model.save_changes();
    }),
  );
  const sized = new ResizeObserver(() => rows.forEach(({ fit }) => fit?.()));
  sized.observe(controls);

  const move = () => model.get("position").forEach((at, place) => rows[place].show(at));
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
  return () => {
    sized.disconnect();
    reactions.forEach(([event, react]) => model.off(event, react));
  };
}

// Each makes a row and gives `show(at)`, which sets it to one of its labels; `choose(at)` is called when the reader does.
const CONTROLS = {
  slider(controls, name, labels, place, choose) {
    const label = make("label", controls);
    make("span", label, { textContent: name });
    const input = make("input", label, { type: "range", min: 0, max: labels.length - 1, step: 1 });
    input.disabled = labels.length === 1;
    const value = make("span", controls, { className: "peft-value" });
    value.setAttribute("aria-hidden", "true"); // aria-valuetext says it
    input.addEventListener("input", () => choose(Number(input.value)));
    const show = (at) => {
      input.value = at;
      input.setAttribute("aria-valuetext", labels[at]);
      value.textContent = labels[at];
    };
    return { show };
  },

  switch(controls, name, labels, place, choose) {
    const label = make("label", controls);
    make("span", label, { textContent: name });
    const cell = make("span", label, { className: "peft-wide" });
    const { button, show: turn } = onOff(cell, name, (on) => choose(labels.indexOf(on ? "yes" : "no")));
    const value = make("span", cell, { className: "peft-value" });
    value.setAttribute("aria-hidden", "true"); // aria-checked says it
    const show = (at) => {
      turn(labels[at] === "yes");
      value.textContent = labels[at];
    };
    return { show };
  },

  // Segments where they fit into one row, else a list to unfold.
  choice(controls, name, labels, place, choose) {
    make("span", controls, { textContent: name }).setAttribute("aria-hidden", "true");
    const cell = make("span", controls, { className: "peft-wide" });
    const { group, show: press } = segments(cell, String(place), name, labels, choose);
    const select = make("select", cell, { hidden: true });
    select.setAttribute("aria-label", name);
    labels.forEach((textContent) => make("option", select, { textContent }));
    select.addEventListener("change", () => choose(select.selectedIndex));
    const fit = () => {
      group.hidden = false;
      group.hidden = group.scrollWidth > group.clientWidth;
      select.hidden = !group.hidden;
    };
    const show = (at) => {
      press(at);
      select.selectedIndex = at;
    };
    return { show, fit };
  },
};
