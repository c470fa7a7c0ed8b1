// A square to draw letters in, one after the other. `drawn` goes out with every stroke: { number, letters }, of each
// letter { strokes, pen, picture }, as ink.js makes it. `kept` comes back with the number: it is stored.
// JupyterLab sets `saved` on a model that was read from a file and has no kernel (labextensions/peft-lessons-next-day).

const NEAR = 3; // a point that is nearer to the last one says nothing new
const MOST = 4000; // points of a letter
const PENS = { min: 16, max: 80, step: 4 };
const USUAL = 36;
const QUIET = 400; // ms: a pen's width is settled when it has not changed for so long
const GUIDES = [
  ["capitals", 2],
  ["small letters", 10],
  ["baseline", BASELINE],
  ["tails", 30],
];

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const rounded = ([x, y]) => `${Math.round(10 * x) / 10} ${Math.round(10 * y) / 10}`;

// A single point is a line to itself, whose round ends are a dot.
const path = (points) => {
  const line = smoothed(points);
  return `M${rounded(line[0])}L${(line.length > 1 ? line.slice(1) : line).map(rounded).join("L")}`;
};

// One path for each grey, of its pixels.
const pixels = (digits) =>
  Array.from("123456789abcdef", (grey) => {
    const squares = Array.from(digits, (digit, at) => (digit === grey ? `M${at % SIZE} ${Math.floor(at / SIZE)}h1v1h-1z` : ""));
    return svg("path", { d: squares.join(""), "fill-opacity": parseInt(grey, 16) / 15 });
  });

const called = (letter) => `${letter === letter.toUpperCase() ? "capital" : "small"} ${letter}`;
const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

function render({ model, el }) {
  const asked = [...model.get("asked")];
  let letter = asked.find((one) => !model.get("drawn").letters[one]) ?? asked[0];
  const lastPen = () => Object.values(model.get("drawn").letters).at(-1)?.pen ?? USUAL;
  let pen = lastPen();
  let saved = model.get("saved") ?? false;
  let stroke; // under the pen now: { pointer, points }
  let settling;
  const before = {}; // by letter, what its strokes were before each change

  const strokes = () => model.get("drawn").letters[letter]?.strokes ?? [];

  // The parts

  const form = make("form", el, { className: "peft-theme peft-box peft-hand" });
  const desk = make("div", form, { className: "peft-desk" });
  const ink = svg("g", { class: "peft-ink" });
  const guides = GUIDES.flatMap(([name, at]) => [
    svg("line", { x1: 0, x2: SIDE, y1: at * PIXEL, y2: at * PIXEL, ...(name === "baseline" && { class: "peft-baseline" }) }),
    svg("text", { x: 6, y: at * PIXEL - 5 }, name),
  ]);
  const paper = svg("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, "aria-hidden": "true" }, svg("g", { class: "peft-guides" }, ...guides), ink);
  const square = make("div", desk, { className: "peft-square", tabIndex: 0 });
  square.setAttribute("role", "img");
  square.append(paper);

  const side = make("div", desk, { className: "peft-side" });
  const task = make("p", side, { className: "peft-task" });
  const glyph = make("strong", task);
  const words = make("span", task);
  const slide = make("label", side, { className: "peft-pen" });
  make("span", slide, { textContent: "Pen" });
  make("span", slide, { className: "peft-end", textContent: "thin" });
  const range = make("input", slide, { type: "range", ...PENS, value: pen });
  range.setAttribute("aria-label", "Width of the pen, for all letters");
  make("span", slide, { className: "peft-end", textContent: "bold" });
  const buttons = make("div", side, { className: "peft-buttons" });
  const button = (textContent, className, act) => {
    const one = make("button", buttons, { type: "button", textContent, className });
    one.addEventListener("click", act);
    return one;
  };
  const undoing = button("Undo", "peft-plain", () => undo());
  const clearing = button("Clear", "peft-plain", () => clear());
  button("Next letter", "", () => next());
  make("p", side, {
    className: "peft-note",
    textContent: "Draw with mouse, pen or finger, from line to line. In the square, Enter leads to the next letter, and Ctrl+Z undoes.",
  });
  make("p", side, {
    className: "peft-note",
    textContent: "You cannot draw here, or would rather not? Go on: a typeface stands in for your hand.",
  });

  const row = make("fieldset", form, { className: "peft-row" });
  make("legend", row, { textContent: `All letters, as the model sees them: ${SIZE} × ${SIZE} pixels` });
  const choices = asked.map((one) => {
    const label = make("label", row);
    const input = make("input", label, { type: "radio", name: "letter" });
    const view = label.appendChild(svg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, "aria-hidden": "true" }));
    const name = make("span", label, { textContent: one });
    const mark = make("span", label, { className: "peft-mark" });
    for (const part of [name, mark]) part.setAttribute("aria-hidden", "true"); // the radio button says it
    input.addEventListener("change", () => go(one));
    return { one, input, view, mark, shown: undefined };
  });
  const kernel = kernelWatch(model, form);
  const status = make("p", form, { className: "peft-status" });
  status.setAttribute("role", "status");
  const tally = make("span", status, { className: "peft-tally" });
  const said = make("span", status);

  // What changes

  const put = (letters) => {
    model.set("drawn", { number: model.get("drawn").number + 1, letters });
    kernel.waits(true); // before it is sent: a page without a kernel answers at once
    model.save_changes();
    show();
  };
  const drawn = (strokes) => ({ strokes, pen, picture: picture(strokes, pen) });
  const change = (strokes) => {
    const { [letter]: _, ...others } = model.get("drawn").letters;
    put(strokes.length ? { ...others, [letter]: drawn(strokes) } : others);
  };
  const remember = () => (before[letter] ??= []).push(strokes());
  const undo = () => {
    if (saved || !(strokes().length || before[letter]?.length)) return;
    change(before[letter]?.pop() ?? strokes().slice(0, -1));
  };
  const clear = () => {
    if (saved || !strokes().length) return;
    remember();
    change([]);
  };
  const go = (one) => {
    finish();
    letter = one;
    show();
  };
  const next = () => {
    const at = asked.indexOf(letter);
    const others = [...asked.slice(at + 1), ...asked.slice(0, at)];
    go(others.find((one) => !model.get("drawn").letters[one]) ?? others[0] ?? letter);
  };
  range.addEventListener("input", () => {
    pen = Number(range.value);
    showInk();
    clearTimeout(settling);
    settling = setTimeout(() => {
      settling = undefined;
      const letters = Object.entries(model.get("drawn").letters);
      put(Object.fromEntries(letters.map(([one, { strokes }]) => [one, drawn(strokes)])));
    }, QUIET);
  });

  // The pen

  const place = ({ clientX, clientY }) => {
    const { left, top, width, height } = paper.getBoundingClientRect();
    const within = (share) => Math.round(SIDE * Math.min(1, Math.max(0, share)));
    return [within((clientX - left) / width), within((clientY - top) / height)];
  };
  const room = () => MOST - strokes().flat().length - (stroke?.points.length ?? 0);
  const extend = (point) => {
    const [x, y] = stroke.points.at(-1);
    if ((point[0] - x) ** 2 + (point[1] - y) ** 2 >= NEAR ** 2 && room() > 0) stroke.points.push(point);
  };
  const finish = () => {
    if (!stroke) return;
    const { points } = stroke;
    stroke = undefined;
    remember();
    change([...strokes(), points]);
  };
  square.addEventListener("pointerdown", (event) => {
    if (stroke || event.button || saved) return;
    event.preventDefault(); // else it would select text
    square.focus({ preventScroll: true });
    if (room() <= 0) {
      said.textContent = "This letter has all the ink that it can hold: undo, or clear it.";
      return;
    }
    square.setPointerCapture?.(event.pointerId);
    stroke = { pointer: event.pointerId, points: [place(event)] };
    showInk();
  });
  square.addEventListener("pointermove", (event) => {
    if (event.pointerId !== stroke?.pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    (events.length ? events : [event]).map(place).forEach(extend);
    ink.lastChild.setAttribute("d", path(stroke.points));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    square.addEventListener(end, (event) => {
      if (event.pointerId !== stroke?.pointer) return;
      if (end === "pointerup") extend(place(event));
      finish();
    });
  }
  square.addEventListener("keydown", (event) => {
    const act = event.key === "Enter" && !event.shiftKey ? next : event.key.toLowerCase() === "z" && !event.shiftKey && (event.ctrlKey || event.metaKey) ? undo : undefined;
    if (!act) return;
    event.preventDefault();
    event.stopPropagation(); // the notebook would undo, too
    act();
  });
  keepKeys(form);
  form.addEventListener("submit", (event) => event.preventDefault());

  // What is seen

  const showInk = () => {
    const lines = [...strokes(), ...(stroke ? [stroke.points] : [])];
    ink.setAttribute("stroke-width", pen);
    ink.replaceChildren(...lines.map((points) => svg("path", { d: path(points) })));
  };
  const show = () => {
    const { letters } = model.get("drawn");
    const done = asked.filter((one) => letters[one]).length;
    const own = strokes().length;
    showInk();
    glyph.textContent = letter;
    words.textContent = `Draw the ${called(letter)}`;
    square.setAttribute("aria-label", `${called(letter)}: ${own ? `drawn with ${counted(own, "stroke")}` : "nothing is drawn yet"}`);
    undoing.setAttribute("aria-disabled", String(saved || !(own || before[letter]?.length)));
    clearing.setAttribute("aria-disabled", String(saved || !own));
    range.disabled = saved;
    for (const choice of choices) {
      const { one, input, view, mark } = choice;
      const digits = letters[one]?.picture;
      input.checked = one === letter;
      input.setAttribute("aria-label", `${called(one)}, ${digits ? "drawn" : "not drawn yet"}`);
      mark.textContent = digits ? "✓" : "";
      if (digits !== choice.shown) view.replaceChildren(...(digits ? pixels(digits) : []));
      choice.shown = digits;
    }
    tally.textContent = done < asked.length ? `${done} of ${counted(asked.length, "letter")} drawn. ` : "All letters are drawn: run the next cell. ";
    const { number, notice } = model.get("kept");
    const kept = number === model.get("drawn").number ? notice || "What you draw is kept with your progress." : "The last change is not kept yet.";
    said.textContent = saved ? "Saved view: run this cell to draw." : kept;
  };

  const hear = () => {
    if (model.get("kept").number === model.get("drawn").number) kernel.answered();
    show();
  };
  const elsewhere = () => {
    if (!settling && Object.keys(model.get("drawn").letters).length) range.value = pen = lastPen();
    show();
  };
  const cutOff = () => {
    saved = Boolean(model.get("saved"));
    show();
  };
  const reactions = { "change:drawn": elsewhere, "change:kept": hear, "change:saved": cutOff };
  for (const [event, react] of Object.entries(reactions)) model.on(event, react);
  show();
  return () => {
    clearTimeout(settling);
    kernel.close();
    for (const [event, react] of Object.entries(reactions)) model.off(event, react);
  };
}

export default { render };
