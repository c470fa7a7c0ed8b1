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
  const status = document.createElement("div");
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");
  const answers = document.createElement("dl");
  status.append(answers);
  form.append(label, button, status);
  el.append(form);

  // Otherwise the notebook takes arrow keys and Enter for itself.
  form.addEventListener("keydown", (event) => event.stopPropagation());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!field.value.trim() || field.value === model.get("question")) return;
    form.setAttribute("aria-busy", "true");
    button.disabled = true;
    button.textContent = "…";
    model.set("question", field.value);
    model.save_changes();
  });

  const show = () => {
    form.removeAttribute("aria-busy");
    button.disabled = false;
    button.textContent = "Ask";
    field.value = model.get("question");
    answers.replaceChildren(
      ...model.get("answers").flatMap(([name, text]) => {
        const term = document.createElement("dt");
        term.textContent = name;
        const description = document.createElement("dd");
        description.textContent = text;
        return [term, description];
      }),
    );
  };
  model.on("change:answers", show);
  show();
  return () => model.off("change:answers", show);
}

export default { render };
