// A guess before a result. `guess` goes out once; `kept` comes back when it is kept, and `said` when the next cell has run.
// JupyterLab sets `saved` on a model that was read from a file and has no kernel (labextensions/peft-lessons-next-day).

const html = (tag, text) => element(tag, { innerHTML: text }); // made and escaped in Python

function choice({ texts }) {
  const rows = texts.map((text, place) => {
    const radio = element("input", { type: "radio", name: "guess", value: String(place) });
    return { radio, row: element("label", {}, radio, html("span", text)) };
  });
  return {
    parts: rows.map(({ row }) => row),
    read: () => rows.findIndex(({ radio }) => radio.checked),
    ready: (guess) => guess >= 0,
    write: (guess) => (rows[guess].radio.checked = true),
    missing: "Choose one first.",
  };
}

function ranking({ texts }) {
  const list = element("ol");
  const item = (place) => {
    const row = element("li", {}, html("span", texts[place]));
    row.dataset.place = place;
    for (const [name, sign, by] of [["up", "↑", -1], ["down", "↓", 1]]) {
      const button = element("button", { type: "button", textContent: sign });
      button.setAttribute("aria-label", `Move ${row.textContent.replace(/[↑↓]/g, "")} ${name}`);
      button.addEventListener("click", () => {
        const other = by < 0 ? row.previousElementSibling : row.nextElementSibling;
        if (other) list.insertBefore(by < 0 ? row : other, by < 0 ? other : row);
        button.focus();
      });
      row.append(button);
    }
    return row;
  };
  const write = (order) => list.replaceChildren(...order.map(item));
  write(texts.map((_, place) => place));
  return { parts: [list], read: () => [...list.children].map((row) => Number(row.dataset.place)), ready: () => true, write };
}

const STEPS = 200;

function scale({ low, high, log, unit }) {
  const at = (step) => (log ? low * (high / low) ** (step / STEPS) : low + ((high - low) * step) / STEPS);
  const step = (value) =>
    Math.round(STEPS * (log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low)));
  const rounded = (value) => Math.min(high, Math.max(low, Number(value.toPrecision(high - low > 20 || log ? 2 : 3))));
  return { at: (place) => rounded(at(place)), step, words: (value) => `${value.toLocaleString("en")}${unit}` };
}

function slider(scaled, name) {
  const range = element("input", { type: "range", min: 0, max: STEPS, value: STEPS / 2 });
  if (name) range.setAttribute("aria-label", name);
  const output = element("output");
  const show = () => {
    output.textContent = scaled.words(scaled.at(Number(range.value)));
    range.setAttribute("aria-valuetext", output.textContent);
  };
  range.addEventListener("input", show);
  show();
  return {
    range,
    output,
    read: () => scaled.at(Number(range.value)),
    write: (value) => {
      range.value = scaled.step(value);
      show();
    },
  };
}

function number(asked) {
  const one = slider(scale(asked), "your guess");
  const row = element("div", { className: "peft-scale" }, one.range, one.output);
  return { parts: [row], read: one.read, ready: () => true, write: one.write };
}

function curve(asked) {
  const scaled = scale(asked);
  const rows = asked.x.map((x) => ({ x, ...slider(scaled, `your guess at ${x}`) }));
  const drawing = html("div", '<svg viewBox="0 0 300 100" aria-hidden="true"><polyline></polyline></svg>');
  const line = drawing.querySelector("polyline");
  const draw = () => {
    const place = ({ range }, index) => `${(300 * (index + 0.5)) / rows.length},${96 - (92 * range.value) / STEPS}`;
    line.setAttribute("points", rows.map(place).join(" "));
  };
  rows.forEach(({ range }) => range.addEventListener("input", draw));
  draw();
  const lines = rows.map(({ x, range, output }) =>
    element("label", { className: "peft-scale" }, element("span", { textContent: x }), range, output),
  );
  return {
    parts: [drawing, ...lines],
    read: () => rows.map((row) => row.read()),
    ready: () => true,
    write: (values) => {
      rows.forEach((row, index) => row.write(values[index]));
      draw();
    },
  };
}

const KINDS = { choice, ranking, number, curve };

function render({ model, el }) {
  const asked = model.get("asked");
  const form = element("form", { className: "peft-theme peft-box peft-predict" });
  const field = element("fieldset", {}, html("legend", `<strong>Predict.</strong> ${asked.html}`));
  const input = KINDS[asked.kind](asked);
  field.append(...input.parts);
  const submit = element("button", { type: "submit", textContent: "This is my guess" });
  const skip = element("button", { type: "button", className: "peft-quiet peft-skip", textContent: "Skip" });
  const buttons = element("div", { className: "peft-buttons" }, submit, skip);
  const status = element("p", { className: "peft-status" });
  status.setAttribute("role", "status");
  form.append(field, buttons, status);
  form.tabIndex = -1; // takes the focus when the button that had it goes away
  el.append(form);
  const kernel = kernelWatch(model, form);
  let saved = model.get("saved") ?? false;

  const next = (guessed, kept, notice) => {
    if (!guessed) return "Skipped. Run the next cell.";
    if (saved) return "Your guess. Run this cell, then the next.";
    if (!kept) return "Your guess is on its way to the kernel.";
    return notice ? "Run the next cell." : "Your guess is kept. Run the next cell.";
  };
  const show = () => {
    const guess = model.get("guess");
    const done = guess !== null && guess !== undefined;
    if (done) input.write(guess);
    const settled = done || model.get("skipped");
    if (settled && buttons.contains(document.activeElement)) form.focus({ preventScroll: true });
    form.dataset.state = settled ? "settled" : "open";
    field.disabled = settled || saved;
    buttons.hidden = settled || saved;
    const notice = model.get("notice");
    const open = saved ? "Saved view: run this cell to guess." : "";
    const words = settled ? model.get("said") || next(done, model.get("kept"), notice) : open;
    status.textContent = [words, notice].filter(Boolean).join(" ");
  };
  const send = (name, value) => {
    model.set(name, value);
    kernel.waits(true); // before it is sent: a page without a kernel answers at once
    model.save_changes();
    show();
  };
  keepKeys(form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const guess = input.read();
    if (input.ready(guess)) send("guess", guess);
    else status.textContent = input.missing;
  });
  skip.addEventListener("click", () => send("skipped", true));
  const heard = () => {
    kernel.answered();
    show();
  };
  const cutOff = () => {
    saved = Boolean(model.get("saved"));
    show();
  };
  const reactions = [
    ...["guess", "skipped", "said", "notice"].map((name) => [`change:${name}`, show]),
    ["change:kept", heard],
    ["change:saved", cutOff],
  ];
  for (const [event, react] of reactions) model.on(event, react);
  show();
  return () => {
    kernel.close();
    for (const [event, react] of reactions) model.off(event, react);
  };
}

export default { render };
