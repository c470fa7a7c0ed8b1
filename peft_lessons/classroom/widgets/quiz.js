// One question as a form of radio buttons. The kernel grades: `answer` goes out, `result` comes back.
// JupyterLab sets `saved` on a model that was read from a file and has no kernel (labextensions/peft-lessons-next-day).

function element(tag, className, html) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (html !== undefined) node.innerHTML = html; // made and escaped in Python
  return node;
}

// Screen readers announce what appears in it. It takes no room while it is empty.
function announcement(className) {
  const node = element("div", className);
  node.setAttribute("role", "status");
  return node;
}

function option({ letter, html }) {
  const row = element("div", "peft-option");
  const label = element("label");
  const radio = element("input");
  radio.type = "radio";
  radio.name = "answer"; // radio groups are scoped by their form
  radio.value = letter;
  label.append(radio, element("span", "peft-letter", `${letter})`), element("span", "peft-text", html));
  const verdict = announcement("peft-feedback");
  const explanation = element("p", "peft-feedback");
  row.append(label, verdict, explanation);
  return { letter, row, radio, verdict, explanation };
}

function button(text, type) {
  const node = element("button", type === "submit" ? "" : "peft-quiet");
  node.type = type;
  node.textContent = text;
  return node;
}

function render({ model, el }) {
  const question = model.get("question");
  const form = element("form", "peft-theme peft-quiz");
  form.tabIndex = -1; // takes the focus when the button that had it goes away
  const fieldset = element("fieldset");
  const rows = question.options.map(option);
  fieldset.append(element("legend", "", question.html), ...rows.map(({ row }) => row));
  const foot = element("div", "peft-foot");
  const [check, again] = [button("Check answer", "submit"), button("Answer again", "button")];
  const note = announcement("peft-note");
  foot.append(check, note, again);
  form.append(fieldset, foot);

  let saved = model.get("saved") ?? false;

  function show() {
    const { answer, correct, feedback, notice, answered } = model.get("result");
    for (const { letter, row, radio, verdict, explanation } of rows) {
      const chosen = letter === answer;
      row.dataset.verdict = !chosen ? "" : correct ? "correct" : "incorrect";
      radio.checked = chosen;
      const words = correct ? "✔ Correct." : "✘ Not this one.";
      verdict.innerHTML = chosen ? `<strong>${words}</strong> ${feedback[letter]}` : "";
      explanation.innerHTML = (!chosen && feedback?.[letter]) || "";
    }
    const done = Boolean(correct);
    if (done && form.contains(document.activeElement)) form.focus({ preventScroll: true });
    fieldset.disabled = done || saved;
    check.hidden = done || saved;
    again.hidden = !done || saved;
    const count = answered?.done ? `${answered.done} of ${answered.total} answered in this lesson` : "";
    const run = saved ? `Saved view: run this cell to answer${done ? " again" : ""}.` : "";
    note.textContent = [count, notice, run].filter(Boolean).join(" · ");
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const answer = rows.find(({ radio }) => radio.checked)?.letter;
    if (!answer) {
      note.textContent = "Choose an option first.";
    } else if (answer !== model.get("result").answer) {
      note.textContent = "Checking … (if nothing follows, run this cell again)";
      model.set("answer", answer);
      model.save_changes();
    }
  });
  again.addEventListener("click", () => {
    model.set("answer", "");
    model.save_changes();
  });

  const cutOff = () => {
    saved = Boolean(model.get("saved"));
    show();
  };
  // Arrow keys choose an option; without this the notebook takes them and moves to another cell.
  const keepKeys = (event) => {
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
  };
  el.addEventListener("keydown", keepKeys);
  const reactions = { "change:result": show, "change:saved": cutOff };
  for (const [event, react] of Object.entries(reactions)) model.on(event, react);
  el.append(form);
  show();

  return () => {
    el.removeEventListener("keydown", keepKeys);
    for (const [event, react] of Object.entries(reactions)) model.off(event, react);
  };
}

export default { render };
