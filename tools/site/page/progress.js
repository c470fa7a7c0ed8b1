// A reader's progress in this browser: the events that the package keeps in a file, and what they say. What is said of
// an event, a count, a review and the file to hand in is said in peft_lessons/classroom/progress and widgets/review.py.

const STORE = "peft-lessons progress";
const VERDICTS = ["correct", "incorrect"];

function events() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) ?? [];
  } catch {
    return []; // a browser that keeps nothing, or what another page has put there
  }
}

// Returns "", or the sentence that says that it could not be kept.
function keep(more) {
  try {
    localStorage.setItem(STORE, JSON.stringify([...events(), ...more]));
  } catch {
    return "This browser keeps nothing: your progress ends with this page.";
  }
  document.dispatchEvent(new Event("peft:progress"));
  return "";
}

const event = (item, kind, outcome, detail = "", time = new Date().toISOString()) => ({
  time, lesson: item.split("-")[0], item, kind, outcome, detail,
});
const record = (...what) => keep([event(...what)]);

function counted(kind, items) {
  const right = new Set(events().filter((e) => e.kind === kind && e.outcome === "correct").map((e) => e.item));
  return { done: items.filter((item) => right.has(item)).length, total: items.length };
}

// The questions that come back in a lesson, in order; once one is answered there, they stay the same.
function due(lesson) {
  const earlier = new Set(COURSE.filter(({ number }) => number < lesson).flatMap(({ questions }) => questions));
  const waiting = new Set();
  const tried = new Set();
  for (const { item, kind, outcome, detail } of events()) {
    if (!earlier.has(item)) continue;
    if (kind === "quiz" && outcome === "incorrect") waiting.add(item);
    if (kind === "review") {
      const there = JSON.parse(detail).lesson;
      if (there === lesson) break;
      if (!tried.has(`${item} ${there}`)) {
        tried.add(`${item} ${there}`);
        waiting.delete(item);
        if (outcome === "incorrect") waiting.add(item);
      }
    }
  }
  return [...waiting].slice(0, 3);
}

// The file to hand in, as `peft-lessons progress export` writes it.

const toTheSecond = (time) => new Date(time).toISOString().slice(0, 19) + "Z";

function items() {
  const all = events();
  return COURSE.flatMap((lesson) =>
    [["quiz", lesson.questions], ["exercise", lesson.exercises]].flatMap(([kind, ids]) =>
      ids.flatMap((item) => {
        const own = all.filter((e) => e.item === item);
        const tries = own.filter((e) => e.kind === kind && VERDICTS.includes(e.outcome));
        if (!tries.length) return [];
        return {
          lesson: lesson.number,
          item,
          kind,
          attempts: tries.length,
          first_verdict: tries[0].outcome,
          last_verdict: tries.at(-1).outcome,
          solved: tries.some((e) => e.outcome === "correct"),
          first_time: toTheSecond(tries[0].time),
          last_time: toTheSecond(tries.at(-1).time),
          hints: new Set(own.filter((e) => e.kind === "hint").map((e) => e.detail)).size,
          solution_shown: own.some((e) => e.kind === "solution"),
        };
      }),
    ),
  );
}

// Python's json.dumps(value, sort_keys=True), of which the seal is made.
function sorted(value) {
  if (Array.isArray(value)) return `[${value.map(sorted).join(", ")}]`;
  if (value && typeof value === "object") {
    return `{${Object.keys(value).sort().map((key) => `${sorted(key)}: ${sorted(value[key])}`).join(", ")}}`;
  }
  const escape = (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value).replace(/[\u007f-\uffff]/g, escape);
}

async function seal({ seal: _, ...told }) {
  if (!crypto.subtle) throw new Error("Here the browser cannot seal or check a file of progress: it does so only at addresses that begin with https.");
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(sorted(told)));
  return `sha256:${Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

// A random number that this browser's progress got at its first export; each time another, where nothing can be kept.
function storeId() {
  const known = events().find(({ kind }) => kind === "export");
  if (known) return known.detail;
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  record("export", "export", "first", id);
  return id;
}

async function exported(name) {
  const found = items();
  if (!found.length) throw new Error("There is nothing to export: no question was answered yet.");
  const told = {
    format: "peft-lessons progress",
    version: 1,
    course: VERSION,
    exported: toTheSecond(new Date()),
    progress: storeId(),
    name,
    items: found,
  };
  return JSON.stringify({ ...told, seal: await seal(told) }, null, 1) + "\n";
}

// Takes up what a file says of items that were not tried here, or not yet solved; returns how many. Throws an Error for
// another file, or where it cannot be kept.
async function imported(text) {
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    throw new Error("This is no file of progress: it holds no JSON.");
  }
  if (told?.format !== "peft-lessons progress") throw new Error("This is no file of progress of this course.");
  if (told.version !== 1) throw new Error(`A later version of the course wrote this file (format ${told.version}).`);
  if (told.seal !== (await seal(told))) throw new Error("The file was damaged or edited: its seal does not fit.");
  const here = new Map(items().map((item) => [item.item, item]));
  const news = told.items.filter(({ item, solved }) => !here.has(item) || (solved && !here.get(item).solved));
  const lost = keep(news.flatMap(happened));
  if (lost) throw new Error(lost);
  return news.length;
}

// Events that say the same as an item of such a file.
function happened(item) {
  const between = Array(Math.max(0, item.attempts - 2)).fill("incorrect");
  const ends = [item.first_verdict, item.last_verdict];
  if (item.solved && !ends.includes("correct")) between[0] = "correct";
  const outcomes = item.attempts > 1 ? [ends[0], ...between, ends[1]] : [ends[1]];
  const detail = item.kind === "quiz" ? "{}" : "";
  const at = (index) => (index === outcomes.length - 1 ? item.last_time : item.first_time);
  return [
    ...outcomes.map((outcome, index) => event(item.item, item.kind, outcome, detail, at(index))),
    ...Array.from({ length: item.hints }, (_, n) => event(item.item, "hint", "shown", String(n + 1), item.last_time)),
    ...(item.solution_shown ? [event(item.item, "solution", "shown", "", item.last_time)] : []),
  ];
}
