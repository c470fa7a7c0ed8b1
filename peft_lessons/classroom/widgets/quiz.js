// One question as a form of radio buttons. The kernel grades: `answer` goes out, `result` comes back.
// JupyterLab sets `saved` on a model that was read from a file and has no kernel (labextensions/peft-lessons-next-day).

// Screen readers announce what appears in it. It takes no room while it is empty.
function announcement(className) {
  const node = element("div", { className });
  node.setAttribute("role", "status");
  return node;
}

function option({ letter, html }) {
  const radio = element("input", { type: "radio", name: "answer", value: letter }); // groups are scoped by their form
  const text = element("span", { className: "peft-text", innerHTML: html }); // made and escaped in Python
  const label = element("label", {}, radio, element("span", { className: "peft-letter" }, `${letter})`), text);
  const verdict = announcement("peft-feedback");
  const explanation = element("p", { className: "peft-feedback" });
  const row = element("div", { className: "peft-option" }, label, verdict, explanation);
  return { letter, row, radio, verdict, explanation };
}

function render({ model, el }) {
  const question = model.get("question");
  const rows = question.options.map(option);
  const legend = element("legend", { innerHTML: question.html });
  const fieldset = element("fieldset", {}, legend, ...rows.map(({ row }) => row));
  const check = element("button", { type: "submit" }, "Check answer");
  const again = element("button", { type: "button", className: "peft-quiet" }, "Answer again");
  const note = announcement("peft-note");
  const foot = element("div", { className: "peft-foot" }, check, note, again);
  const form = element("form", { className: "peft-theme peft-box peft-quiz" }, fieldset, foot);
  form.tabIndex = -1; // takes the focus when the button that had it goes away
  const kernel = kernelWatch(model, form);

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
    const goes = done ? form : again;
    if (goes.contains(document.activeElement)) form.focus({ preventScroll: true });
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
      note.textContent = "Checking …";
      kernel.waits(true);
      model.set("answer", answer);
      model.save_changes();
    }
  });
  again.addEventListener("click", () => {
    kernel.waits(true);
    model.set("answer", "");
    model.save_changes();
  });

  const graded = () => {
    kernel.answered();
    show();
  };
  const cutOff = () => {
    saved = Boolean(model.get("saved"));
    show();
  };
  keepKeys(form);
  const reactions = { "change:result": graded, "change:saved": cutOff };
  for (const [event, react] of Object.entries(reactions)) model.on(event, react);
  el.append(form);
  show();

  return () => {
    kernel.close();
    for (const [event, react] of Object.entries(reactions)) model.off(event, react);
  };
}

export default { render };
