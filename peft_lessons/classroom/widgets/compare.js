// A field for a question, and what the kernel answers. Of two variants of one model, "… off" and "… on", a switch shows
// one at a time, and a button both side by side. A page that can answer only some questions says so in `only`.

function render({ model, el }) {
  const form = make("form", el, { className: "peft-theme peft-box peft-compare" });
  const line = make("div", form, { className: "peft-line" });
  const label = make("label", line, { textContent: model.get("label") });
  const field = make("input", label, { type: "text", maxLength: 500, value: model.get("answer").question });
  make("button", line, { type: "submit", textContent: "Ask" });
  const only = model.get("only");
  line.hidden = Boolean(only);
  const stop = make("button", line, { type: "button", textContent: "Stop", className: "peft-plain" });
  const offers = make("div", form, { className: "peft-offers" });
  if (only) make("p", form, { className: "peft-only", textContent: only });
  const kernel = kernelWatch(model, form);
  const notice = make("p", form, { className: "peft-notice" });
  notice.setAttribute("role", "status");
  const question = make("p", form, { className: "peft-question" });
  const views = make("div", form, { className: "peft-views" });
  const variant = make("span", views);
  const { button: turn, show: turned } = onOff(views, "", (on) => look({ on }));
  const state = make("span", views);
  state.setAttribute("aria-hidden", "true"); // the switch says it
  const beside = make("button", views, { type: "button", textContent: "Side by side", className: "peft-plain" });
  beside.addEventListener("click", () => look({ both: !view.both }));
  const answers = make("dl", make("div", form));
  answers.parentElement.setAttribute("role", "status");
  keepKeys(form);

  let agreed = field.value; // what the field held when it was last asked or answered: what is typed since stays
  // Every question has a number of its own: an equal value would not be sent.
  const ask = (text) => {
    if (!text.trim()) return;
    view.on = undefined;
    agreed = field.value;
    send({ number: model.get("asked").number + 1, question: text });
  };
  const send = (asked) => {
    model.set("asked", asked);
    kernel.waits(true); // before it is sent: a page without a kernel answers at once
    model.save_changes();
    show();
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(field.value);
  });
  stop.addEventListener("click", () => send({ ...model.get("asked"), stop: true }));
  for (const text of model.get("suggestions")) {
    const offer = make("button", offers, { type: "button", textContent: text, className: "peft-plain" });
    offer.addEventListener("click", () => ask((field.value = text)));
  }

  // Until the reader turns the switch, it follows the answer that grows.
  const view = { on: undefined, both: false };
  let two; // what the two variants are of, as the last answers had it: growing ones are not yet two
  const look = (change) => {
    Object.assign(view, change);
    show();
  };
  const show = () => {
    const { number, question: asked, rows, done } = model.get("answer");
    const own = number === model.get("asked").number; // an answer to the question before must not stand under this one
    const waiting = !(own && done);
    const shown = own ? rows : [];
    form.setAttribute("aria-busy", String(waiting)); // screen readers wait for the whole answer
    notice.textContent = waiting ? "Asking …" : "";
    stop.hidden = !waiting;
    question.textContent = own ? asked : model.get("asked").question;
    if (!rows.every(([name]) => [`${two} off`, `${two} on`, "…"].includes(name))) two = variants(rows);
    views.hidden = !two;
    const on = view.on ?? shown.length === 2;
    if (two) {
      variant.textContent = two;
      turn.setAttribute("aria-label", two);
      turned(on);
      state.textContent = on ? "on" : "off";
      beside.setAttribute("aria-pressed", String(view.both));
      turn.disabled = view.both;
    }
    const all = two ? ["off", "on"].map((word, i) => shown[i] ?? [`${two} ${word}`, waiting ? "…" : ""]) : shown;
    answers.className = two ? (view.both ? "peft-beside" : "peft-one") : "";
    answers.replaceChildren(
      ...all.map(([name, text], i) => {
        const pair = document.createElement("div");
        pair.hidden = Boolean(two) && !view.both && i !== Number(on);
        make("dt", pair, { textContent: name });
        make("dd", pair, { textContent: text });
        return pair;
      }),
    );
  };
  const hear = () => {
    const { number, question: asked, done } = model.get("answer");
    if (number === model.get("asked").number) kernel.answered();
    if (done && field.value === agreed) field.value = agreed = asked;
    show();
  };
  const events = [["change:asked", show], ["change:answer", hear]];
  events.forEach(([event, react]) => model.on(event, react));
  show();
  return () => {
    kernel.close();
    events.forEach(([event, react]) => model.off(event, react));
  };
}

// "adapter" for answers that are named "adapter off" and "adapter on".
function variants(rows) {
  const [off, on] = [/^(.*\S) off$/, /^(.*\S) on$/].map((name, i) => rows[i]?.[0].match(name)?.[1]);
  return rows.length === 2 && off === on ? off : undefined;
}

export default { render };
