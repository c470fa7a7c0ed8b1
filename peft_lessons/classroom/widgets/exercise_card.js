// The card of an exercise. The page runs the student's cell, if it can (page.js); the kernel checks, hints and solves.
// A page without a kernel says in `places` where the lesson can run; it gives hints and the solution all the same.

const SIGNS = { correct: "✔", incorrect: "✘", "not attempted": "○" };

function render({ model, el }) {
  const verdict = element("div", { className: "peft-verdict-text" });
  verdict.setAttribute("role", "status");
  const places = element("p", { className: "peft-places", innerHTML: model.get("places") ?? "" });
  places.hidden = !places.textContent;
  const hints = element("ol", { className: "peft-hints" });
  const solution = element("div", { className: "peft-solution" });
  const given = element("div", {}, hints, solution);
  given.setAttribute("aria-live", "polite");
  const notice = element("p", { className: "peft-notice" });

  const ask = (what) => {
    kernel.waits(true);
    model.set("asked", { number: (model.get("asked").number ?? 0) + 1, what });
    model.save_changes();
  };
  const button = (name, action, className = "peft-plain") => {
    const node = element("button", { type: "button", textContent: name, className });
    node.addEventListener("click", action);
    return node;
  };
  const check = button("Check", () => {
    verdict.textContent = "Checking …";
    const run = new CustomEvent("peft:run", {
      bubbles: true,
      cancelable: true,
      detail: { exercise: model.get("exercise"), done: () => ask("check") },
    });
    if (el.dispatchEvent(run)) ask("check"); // nobody here can run a cell
  }, "");
  check.hidden = !places.hidden;
  const hint = button("", () => ask("hint"));
  const solve = button("Solution", () => ask("solution"));
  const card = element(
    "section",
    { className: "peft-theme peft-box peft-exercise" },
    verdict,
    places,
    element("div", { className: "peft-buttons" }, check, hint, solve),
    given,
    notice,
  );
  card.tabIndex = -1; // takes the focus when the button that had it goes away
  card.setAttribute("aria-label", `Exercise ${model.get("exercise")}`);
  el.append(card);
  const kernel = kernelWatch(model, card);

  let shown; // the verdict
  const show = () => {
    const { outcome, title, html } = model.get("verdict");
    card.dataset.outcome = outcome;
    const judged = `<strong>${SIGNS[outcome]} ${title}</strong>${html}`; // made and escaped in Python
    if (judged !== shown || !verdict.firstElementChild) verdict.innerHTML = shown = judged; // else it would be read aloud again
    const [opened, all] = [model.get("hints"), model.get("hints_in_all")];
    hint.textContent = `Hint ${Math.min(opened.length + 1, all)} of ${all}`;
    for (const text of opened.slice(hints.children.length)) hints.append(element("li", { innerHTML: text }));
    hints.hidden = !opened.length;
    if (!solution.firstChild) solution.innerHTML = model.get("solution");
    for (const [button, gone] of [[hint, opened.length >= all], [solve, Boolean(model.get("solution"))]]) {
      if (gone && button === document.activeElement) card.focus({ preventScroll: true });
      button.hidden = gone;
    }
    notice.textContent = model.get("notice");
  };
  const reactions = [
    ...["verdict", "hints", "solution", "notice", "answered"].map((name) => [`change:${name}`, show]),
    ["change:heard", kernel.answered],
  ];
  for (const [event, react] of reactions) model.on(event, react);
  keepKeys(card);
  show();
  return () => {
    kernel.close();
    for (const [event, react] of reactions) model.off(event, react);
  };
}

export default { render };
