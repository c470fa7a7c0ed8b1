// Brings a page of the site to life. Each place for a widget holds the stored result, which a reader without scripts
// keeps, and either its state or the address of a file with it.

const ROOT = document.documentElement.dataset.content_root ?? "./";
const address = (path) => new URL(ROOT + path, location.href).href;
const fetched = async (path) => {
  const answer = await fetch(address(path));
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
};

const placed = ({ url, ...frame }) => ({ ...frame, url: address(url) });

// The script of each kind of place, and the model that answers it.
const KINDS = {
  quiz: { script: "quiz", model: (data) => quiz(data) },
  prediction: { script: "predict", model: (data) => prediction(data, () => reveal(data.asked.id)) },
  exercise: { script: "exercise_card", model: exerciseCard },
  progress: { script: "progress", model: progressMap, after: keeping },
  Compare: { script: "compare", model: comparison },
  Sweep: { script: "sweep", model: (state) => new PageModel(state) },
  LiveFigure: { script: "live_figure", model: ({ frames, ...state }) => liveFigure({ ...state, frames: frames.map(placed) }) },
};

function show(place, { script, model, after }, data) {
  const answering = model(data);
  place.replaceChildren();
  SCRIPTS[script].render({ model: answering, el: place });
  after?.(place);
  place.dataset.alive = "";
}

// What answers a guess was folded away. An old guess may be shown before the page has been read to its answer.
async function reveal(id) {
  await whole;
  for (const folded of document.querySelectorAll(`.tag_answers-${id} details.hide`)) folded.open = true;
}

// Questions of earlier lessons that went wrong.
async function review(place) {
  const ids = due(place.dataset.lesson);
  const words = { 0: "Nothing to review: no question of an earlier lesson is waiting for you.", 1: "Once more: a question of an earlier lesson that went wrong." };
  const said = words[ids.length] ?? `Once more: ${ids.length} questions of earlier lessons that went wrong.`;
  const questions = ids.length ? await fetched("_static/questions.json") : {};
  place.replaceChildren(element("p", { textContent: said }));
  for (const id of ids) show(make("div", place), { script: "quiz", model: (data) => quiz(data, place.dataset.lesson) }, questions[id]);
  place.dataset.alive = "";
}

const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      fetched(target.dataset.file).then((data) => show(target, KINDS[target.dataset.kind], data), () => {}); // it keeps its picture
    }
  },
  { rootMargin: "800px" },
);

function enliven(place) {
  const { kind, file } = place.dataset;
  if (kind === "classroom") classroom(place);
  else if (kind === "review") review(place).catch(() => {});
  else if (file) near.observe(place);
  else show(place, KINDS[kind], JSON.parse(place.querySelector("script")?.textContent ?? "{}"));
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const whole = new Promise((resolve) => (isWhole() ? resolve() : addEventListener("DOMContentLoaded", resolve)));
const painted = new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))); // never in a hidden tab

function isWhole() {
  return document.readyState !== "loading";
}

// Whether the page has been read to the end of this part of it.
function isRead(part) {
  return isWhole() || Boolean(part && (part.nextSibling || isRead(part.parentElement)));
}

// One after the other, from the first words on: the first can be used while the last is made, or has yet to arrive.
async function enlivenAll() {
  const seen = new Set();
  await Promise.race([painted, whole]);
  for (let last = false; !last; await pause(30)) {
    last = isWhole();
    for (const place of document.querySelectorAll(".peft-live")) {
      if (seen.has(place) || !isRead(place)) continue;
      seen.add(place);
      try {
        enliven(place);
      } catch (error) {
        console.error(error); // this place stays as it was stored, and those after it come to life
      }
      await pause();
    }
  }
}

// Below the map: the progress as a file, out of this browser and into it.
function keeping(place) {
  const box = make("form", place, { className: "peft-theme peft-box peft-keeping" });
  make("p", box, { textContent: "Your progress stays in this browser. As a file it can go elsewhere: to a teacher, or by peft-lessons progress import into JupyterLab." });
  const line = make("p", box);
  const label = make("label", line, { textContent: "Name, if the file is to hold one " });
  const name = make("input", label, { type: "text", maxLength: 80, autocomplete: "name" });
  make("button", line, { type: "submit", textContent: "Save progress as a file" });
  const open = make("label", make("p", box), { textContent: "Take up a file of progress " });
  const file = make("input", open, { type: "file", accept: ".json,application/json" });
  const said = make("p", box);
  said.setAttribute("role", "status");
  box.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      download("progress.json", await exported(name.value.trim()));
      said.textContent = "Saved. It is text: look at what it says.";
    } catch (error) {
      said.textContent = error.message;
    }
  });
  file.addEventListener("change", async () => {
    try {
      const taken = await imported(await file.files[0].text());
      said.textContent = taken ? `Taken up: ${taken} questions and exercises.` : "It says nothing new.";
    } catch (error) {
      said.textContent = error.message;
    }
    file.value = "";
  });
}

function download(name, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));
}

// For teachers: the address of any question, and the code that embeds it.
function classroom(place) {
  const box = make("p", place, { className: "peft-theme peft-box peft-classroom" });
  const select = make("select", make("label", box, { textContent: "Question " }));
  for (const { number, title, questions } of COURSE.filter(({ questions }) => questions.length)) {
    const group = make("optgroup", select, { label: `${number} · ${title}` });
    questions.forEach((textContent) => make("option", group, { textContent }));
  }
  const chosen = () => [select.value.slice(0, 2), select.value];
  const show = make("a", box, { textContent: "Show it alone" });
  copier(box, "Copy its address", () => questionAddress(...chosen()));
  copier(box, "Copy code to embed it", () => embedding(...chosen()));
  const follow = () => (show.href = questionAddress(...chosen()));
  select.addEventListener("change", follow);
  follow();
  place.dataset.alive = "";
}

// One question alone, for a projector or in the frame of another page.
async function stage(id) {
  const lesson = COURSE.find(({ questions }) => questions.includes(id));
  const main = element("main", { className: "peft-stage peft-theme" });
  document.body.classList.add("peft-alone"); // the page's own scripts still look for what is now hidden
  document.body.prepend(main);
  if (!lesson) {
    make("p", main, { textContent: `There is no question ${id}. ` });
    make("a", main, { href: address("index.html"), textContent: "All lessons" });
    return;
  }
  document.title = `${id} · PEFT Lessons`;
  make("h1", main, { textContent: `${lesson.number} · ${lesson.title}` });
  let questions;
  try {
    questions = await fetched("_static/questions.json");
  } catch {
    make("p", main, { textContent: "The question could not be loaded: a page opened from a file, or without a network, shows it in its lesson alone. " });
    make("a", main, { href: address(`lessons/${lesson.notebook}`), textContent: `Lesson ${lesson.number}` });
    return;
  }
  show(make("div", main), KINDS.quiz, questions[id]);
  const foot = make("p", main, { className: "peft-stage-foot" });
  const link = (text, href) => make("a", foot, { textContent: text, href });
  const at = lesson.questions.indexOf(id);
  for (const [text, other] of [["← Before", lesson.questions[at - 1]], ["Next →", lesson.questions[at + 1]]]) {
    if (other) link(text, questionAddress(lesson.number, other));
  }
  const whole = link(window === top ? "The lesson" : "From PEFT Lessons", address(`lessons/${lesson.notebook}`));
  if (window !== top) {
    whole.target = "_blank";
    return;
  }
  const button = make("button", foot, { type: "button", textContent: "Full screen" });
  button.addEventListener("click", () => document.documentElement.requestFullscreen());
  copier(foot, "Copy code to embed it", () => embedding(lesson.number, id));
}

const questionAddress = (lesson, id) => address(`index.html?lesson=${lesson}&question=${id}`);
const embedding = (lesson, id) =>
  `<iframe src="${questionAddress(lesson, id)}" title="A question of PEFT Lessons" width="100%" height="520" style="border: 0"></iframe>`;

function copier(parent, words, text) {
  const button = make("button", parent, { type: "button", textContent: words });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = `${words} ✔`;
    } catch {
      const field = element("input", { value: text(), readOnly: true, ariaLabel: words }); // to be copied by hand
      button.replaceWith(field);
      field.select();
    }
  });
}

// What moves the theme comes after all that is alive, and formulas last. Then the copies for reading without a network.
function late() {
  for (const wide of document.querySelectorAll(".bd-article :is(table, pre)")) {
    if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0; // so that keys scroll it, too
  }
  const scripts = JSON.parse(document.getElementById("peft-late")?.textContent ?? "[]");
  for (const src of scripts) document.head.append(element("script", { src, async: false }));
  if (window.isSecureContext && location.protocol.startsWith("http")) navigator.serviceWorker?.register(address("sw.js"));
}

const asked = new URLSearchParams(location.search).get("question");
if (!asked) enlivenAll();
whole.then(() => {
  if (asked) stage(asked);
  else document.querySelectorAll("[data-copy]").forEach((place) => copier(place, "Copy", () => place.dataset.copy));
});
if (document.readyState === "complete") late();
else addEventListener("load", late);
