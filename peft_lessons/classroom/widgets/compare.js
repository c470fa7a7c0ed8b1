// A text field, a button, and the answers as a list. The kernel answers; this only shows.

function render({ model, el }) {
  const form = document.createElement("form");
  form.className = "peft-theme peft-compare";
  const label = document.createElement("label");
  const field = document.createElement("input");
  field.type = "text";
  field.maxLength = 500;
  label.append(model.get("label"), field);
  const button = document.createElement("button");
  button.type = "submit";
  button.textContent = "Ask";
  const notice = document.createElement("p");
  notice.className = "peft-notice";
  notice.setAttribute("role", "status");
  const status = document.createElement("div");
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");
  const answers = document.createElement("dl");
  status.append(answers);
  form.append(label, button, notice, status);
  el.append(form);

  // Otherwise the notebook takes arrow keys and Enter for itself.
  form.addEventListener("keydown", (event) => event.stopPropagation());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!field.value.trim()) return;
    // Every question has a number of its own: an equal value would not be sent.
    model.set("asked", { number: model.get("asked").number + 1, question: field.value });
    model.save_changes();
  });

  const show = () => {
    const { number, question, rows, done } = model.get("answer");
    const waiting = number !== model.get("asked").number || !done;
    // Screen readers wait for the whole answer. The button stays alive: a kernel that was restarted answers nothing.
    form.setAttribute("aria-busy", String(waiting));
    notice.textContent = waiting ? "Asking … (if nothing follows, run this cell again)" : "";
    if (!waiting && document.activeElement !== field) field.value = question;
    answers.replaceChildren(
      ...rows.flatMap(([name, text]) => {
        const term = document.createElement("dt");
        term.textContent = name;
        const description = document.createElement("dd");
        description.textContent = text;
        return [term, description];
      }),
    );
  };
  const events = ["change:asked", "change:answer"];
  events.forEach((event) => model.on(event, show));
  show();
  return () => events.forEach((event) => model.off(event, show));
}

export default { render };
