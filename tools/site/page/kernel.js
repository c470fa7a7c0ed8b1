// What a kernel does for the widgets, done in the page: a model for each, which answers by itself.

class PageModel {
  #state;
  #listeners = [];
  #answer;
  // `answer` is called with the model when the widget sends what it has set.
  constructor(state, answer = () => {}) {
    this.#state = state;
    this.#answer = answer;
  }
  get(name) {
    return this.#state[name];
  }
  set(name, value) {
    this.#state[name] = value;
    for (const [event, react] of [...this.#listeners]) if (event === `change:${name}`) react();
  }
  on(event, react) {
    this.#listeners.push([event, react]);
  }
  off(event, react) {
    this.#listeners = this.#listeners.filter(([e, r]) => e !== event || r !== react);
  }
  save_changes() {
    this.#answer(this);
  }
}

// Keys, explanations, hints and solutions are not to be read in passing; who wants to read them can.
const unsealed = (text) => JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0))));

// In `lesson` a question comes back: such an answer counts for nothing else.
function quiz({ question, sealed }, lesson) {
  const { key, feedback, digest } = unsealed(sealed);
  const kind = lesson ? "review" : "quiz";
  const own = COURSE.find(({ questions }) => questions.includes(question.id));
  const grade = (answer, notice = "") => {
    if (!answer) return {};
    const correct = answer === key;
    const answered = correct && !lesson ? counted("quiz", own.questions) : {};
    return { answer, correct, feedback: correct ? feedback : { [answer]: feedback[answer] }, notice, answered };
  };
  const past = events().filter((e) => e.item === question.id && e.kind === kind).map(({ detail }) => JSON.parse(detail));
  const last = past.filter((detail) => detail.lesson === lesson).at(-1);
  const answer = last?.digest === digest ? last.answer : "";
  return new PageModel({ question, answer, result: grade(answer) }, (model) => {
    const answer = model.get("answer");
    const outcome = answer === key ? "correct" : "incorrect";
    const notice = answer && record(question.id, kind, outcome, JSON.stringify({ answer, digest, lesson }));
    model.set("result", grade(answer, notice));
  });
}

// How far a guess is off: 0 for the same choice or order; for numbers how many times too large or small, less one.
function error(kind, guess, truth) {
  if (kind === "choice" || kind === "ranking") return Number(String(guess) !== String(truth));
  const off = (measured, guess) =>
    measured > 0 && guess > 0
      ? Math.max(measured / guess, guess / measured) - 1
      : Math.abs(measured - guess) / (Math.abs(measured) || 1);
  return Math.max(...[truth].flat().map((measured, i) => off(measured, [guess].flat()[i])));
}

const CLOSE = 0.25; // a number counts as right when it is within a quarter of what was measured

// Whether a guess of an earlier day can still be one: a later version of the lesson may ask otherwise.
function fits(guess, { kind, texts, x, low, high }) {
  const numbers = [guess].flat();
  if (!numbers.every(Number.isFinite) || Array.isArray(guess) !== (kind === "ranking" || kind === "curve")) return false;
  if (kind === "choice") return guess in texts;
  if (kind === "ranking") return numbers.toSorted((one, other) => one - other).join() === [...texts.keys()].join();
  return numbers.every((one) => low <= one && one <= high) && (kind === "number" || numbers.length === x.length);
}

// `revealed` is called once the reader has guessed or skipped, also on an earlier day.
function prediction({ asked, sealed }, revealed) {
  const { truth, words, texts } = unsealed(sealed);
  const inWords = (guess) =>
    ({
      choice: () => `“${texts[guess]}”`,
      ranking: () => guess.map((place) => texts[place]).join(", "),
      number: () => `${guess.toLocaleString("en")}${asked.unit}`,
      curve: () => guess.map((value) => value.toLocaleString("en")).join(", "),
    })[asked.kind]();
  const said = (guess) => `You said ${inWords(guess)}; it is ${words}.`;
  const past = events().filter(({ item, kind }) => item === asked.id && kind === "guess");
  const stored = past.length ? JSON.parse(past.at(-1).detail).guess : null;
  const kept = fits(stored, asked);
  const guess = kept ? stored : null;
  if (kept) revealed();
  return new PageModel({ asked, guess, kept, skipped: false, said: kept ? said(guess) : "", notice: "" }, (model) => {
    const guess = model.get("guess");
    if (model.get("skipped")) {
      model.set("said", `No guess here: it is ${words}.`);
    } else {
      const off = error(asked.kind, guess, truth);
      const close = off <= (asked.kind === "number" || asked.kind === "curve" ? CLOSE : 0);
      const detail = JSON.stringify({ guess, measured: truth, error: off });
      model.set("notice", record(asked.id, "guess", close ? "correct" : "incorrect", detail));
      model.set("said", said(guess));
    }
    model.set("kept", true);
    revealed();
  });
}

function exerciseCard({ exercise, places, sealed }) {
  const { hints, solution } = unsealed(sealed);
  const solved = counted("exercise", [exercise]).done;
  const [outcome, title] = solved ? ["correct", "solved"] : ["not attempted", "this page runs no Python"];
  const state = {
    exercise, places,
    verdict: { outcome, title: `Exercise ${exercise}: ${title}`, html: "" },
    hints: [], hints_in_all: hints.length, solution: "", notice: "", asked: {}, heard: 0, answered: 0,
  };
  return new PageModel(state, (model) => {
    const { number, what } = model.get("asked");
    model.set("heard", number);
    if (what === "hint") {
      const given = model.get("hints").length + 1;
      model.set("notice", record(exercise, "hint", "shown", String(given)));
      model.set("hints", hints.slice(0, given));
    } else {
      model.set("notice", record(exercise, "solution", "shown"));
      model.set("solution", solution);
    }
    model.set("answered", number);
  });
}

// The frame of a position, the last setting fastest, is the answer to it.
function liveFigure({ frames, ...state }) {
  const answer = (position) => {
    const flat = state.sliders.reduce((sum, { labels }, place) => sum * labels.length + position[place], 0);
    return { position, failed: false, ...frames[flat] };
  };
  const first = { ...state, answer: answer(state.position) };
  return new PageModel(first, (model) => model.set("answer", answer(model.get("position"))));
}

function comparison({ label, suggestions, answers, only }) {
  const answer = ({ number, question }) => ({ number, question, rows: answers[question], done: true });
  const asked = { number: 0, question: suggestions[0] };
  const state = { label, suggestions: suggestions.length > 1 ? suggestions : [], only, asked, answer: answer(asked) };
  return new PageModel(state, (model) => model.set("answer", answer(model.get("asked"))));
}

function progressMap() {
  const rows = () =>
    COURSE.map(({ questions, exercises, ...lesson }) => ({
      ...lesson,
      notebook: `${ROOT}lessons/${lesson.notebook}`,
      quiz: counted("quiz", questions),
      exercise: counted("exercise", exercises),
    }));
  const model = new PageModel({ rows: rows(), guesses: improvement() });
  const again = () => {
    model.set("rows", rows());
    model.set("guesses", improvement());
  };
  document.addEventListener("peft:progress", again);
  addEventListener("storage", again); // another tab
  addEventListener("pageshow", again); // the way back, to a page that the browser had put aside
  return model;
}

// Whether guesses become better: how many of the earlier and the later half were off by less than twice.
function improvement() {
  const first = new Map();
  for (const { item, kind, detail } of events()) {
    if (kind !== "guess" || first.has(item)) continue;
    const { error } = JSON.parse(detail);
    if (error !== undefined) first.set(item, error < 1);
  }
  const hits = [...first.values()];
  if (hits.length < 6) return {};
  const half = (part) => ({ close: part.filter(Boolean).length, total: part.length });
  const middle = Math.floor(hits.length / 2);
  return { earlier: half(hits.slice(0, middle)), later: half(hits.slice(middle)) };
}
