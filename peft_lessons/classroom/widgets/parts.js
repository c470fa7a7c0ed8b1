// What the widgets' scripts share. A widget asks of its model only get, set, save_changes, on and off, so that a page
// without Jupyter can run it, too.

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const make = (tag, parent, properties = {}) => parent.appendChild(element(tag, properties));

// The notebook would take arrows and Enter for itself. Ctrl+S, which saves, and Shift+Enter, which runs, are for it.
function keepKeys(element) {
  element.addEventListener("keydown", (event) => {
    const forNotebook = event.ctrlKey || event.metaKey || (event.shiftKey && event.key === "Enter");
    if (!forNotebook) event.stopPropagation();
  });
}

// Buttons side by side, of which one is pressed, inside a form: they are radio buttons, which arrow keys move.
function segments(parent, name, label, texts, choose) {
  const group = make("div", parent, { className: "peft-segments" });
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", label);
  const inputs = texts.map((text, at) => {
    const segment = make("label", group);
    const input = make("input", segment, { type: "radio", name });
    make("span", segment, { textContent: text });
    input.addEventListener("change", () => choose(at));
    return input;
  });
  return { group, show: (at) => (inputs[at].checked = true) };
}

function onOff(parent, label, toggle) {
  const button = make("button", parent, { type: "button", className: "peft-switch" });
  button.setAttribute("role", "switch");
  if (label) button.setAttribute("aria-label", label);
  button.addEventListener("click", () => toggle(button.getAttribute("aria-checked") !== "true"));
  return { button, show: (on) => button.setAttribute("aria-checked", String(on)) };
}

// Says in `notice` that the kernel is gone: two seconds after something was asked in vain, or as soon as the widget's
// connection ends, as it does when the kernel starts anew.
function kernelWatch(model, parent) {
  const notice = make("p", parent, { className: "peft-lost" });
  notice.setAttribute("role", "status");
  let timer;
  const lost = () => (notice.textContent = "The kernel does not answer: run this cell again.");
  const waits = (waiting) => {
    if (!waiting) timer = clearTimeout(timer);
    else timer ??= setTimeout(lost, 2000);
  };
  const answered = () => {
    waits(false);
    notice.textContent = "";
  };
  const connection = () => model.comm_live || lost(); // Jupyter's own models say it; anywidget's hide it, and tell of its end
  model.on("comm_live_update", connection);
  const close = () => {
    waits(false);
    model.off("comm_live_update", connection);
  };
  return { waits, answered, close };
}
