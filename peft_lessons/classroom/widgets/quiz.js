// One question as a form of radio buttons. The kernel grades: `answer` goes out, `result` comes back.

function element(tag, className, html) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (html !== undefined) node.innerHTML = html; // made and escaped in Python
  return node;
}

function render({ model, el }) {
  const question = model.get("question");
  const form = element("form", "peft-theme peft-quiz");
  const fieldset = element("fieldset");
  fieldset.append(element("legend", "", question.html));

  const rows = question.options.map(({ letter, html }) => {
    const row = element("div", "peft-option");
    const label = element("label");
    const radio = element("input");
    radio.type = "radio";
    radio.name = "answer"; // radio groups are scoped by their form
    radio.value = letter;
    const mark = element("span", "peft-mark");
    mark.setAttribute("aria-hidden", "true");
    label.append(radio, element("span", "peft-letter", `${letter})`), element("span", "peft-text", html), mark);
    const feedback = element("p", "peft-feedback");
    feedback.hidden = true;
    row.append(label, feedback);
    fieldset.append(row);
    return { letter, row, radio, mark, feedback };
  });

  const button = element("button", "", "Check answer");
  button.type = "submit";
  const status = element("p", "peft-status");
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");
  form.append(fieldset, button, status);

  const chosen = () => rows.find(({ radio }) => radio.checked)?.letter ?? "";

  function showResult() {
    const result = model.get("result");
    for (const { letter, row, radio, mark, feedback } of rows) {
      const text = result.feedback?.[letter];
      const verdict = letter !== result.answer ? "" : result.correct ? "correct" : "incorrect";
      row.dataset.verdict = verdict;
      mark.textContent = { correct: "✔", incorrect: "✘" }[verdict] ?? "";
      if (verdict) radio.checked = true;
      feedback.hidden = text === undefined;
      feedback.innerHTML = text ?? "";
    }
    if (!result.answer) {
      status.textContent = "";
      return;
    }
    const verdict = result.correct ? "✔ Correct." : "✘ Not this one. Choose again.";
    status.innerHTML = `<strong>${verdict}</strong> ${result.feedback[result.answer]}`;
    // The feedback of the chosen option is in the status already, where screen readers announce it.
    rows.find(({ letter }) => letter === result.answer).feedback.hidden = true;
    if (result.notice) status.append(element("br"), document.createTextNode(result.notice));
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const answer = chosen();
    if (!answer) {
      status.textContent = "Choose an option first.";
    } else if (answer === model.get("result").answer) {
      showResult();
    } else {
      status.textContent = "Checking … (if nothing follows, run this cell again)";
      model.set("answer", answer);
      model.save_changes();
    }
  });

  // Arrow keys choose an option; without this the notebook takes them and moves to another cell.
  const keepKeys = (event) => {
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
  };
  el.addEventListener("keydown", keepKeys);
  model.on("change:result", showResult);
  el.append(form);
  showResult();

  return () => {
    el.removeEventListener("keydown", keepKeys);
    model.off("change:result", showResult);
  };
}

export default { render };
