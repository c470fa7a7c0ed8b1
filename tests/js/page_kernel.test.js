// The kernel in a page of the site beside the kernel in Python; run by test_alive.py, whose `data` holds the script and
// what Python does with the same events, answers and files.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { browser, data, load } from "./browser.js";

const { window } = browser("https://lessons.example.org/lessons/03.html");
globalThis.localStorage = window.localStorage;
globalThis.Event = window.Event;
const names = "events due items counted improvement imported exported seal quiz prediction exerciseCard liveFigure comparison";
const exports = `export default { ${names.split(" ").join(", ")} };`;
const kernel = await load(`${data.script}\nconst ROOT = "../";\n${exports}`);

const remember = (events) => localStorage.setItem("peft-lessons progress", JSON.stringify(events));
beforeEach(() => localStorage.clear());

test("questions that went wrong come back where they do in JupyterLab", () => {
  remember(data.events);
  for (const [lesson, ids] of Object.entries(data.due)) assert.deepEqual(kernel.due(lesson), ids, lesson);
});

test("guesses and counts are as Python has them", () => {
  remember(data.events);
  assert.deepEqual(kernel.improvement(), data.improvement);
  assert.deepEqual(kernel.items(), data.items);
});

test("a question is graded as the kernel grades it, and taken up the next day", () => {
  for (const [letter, result] of Object.entries(data.results)) {
    const model = kernel.quiz(data.quiz);
    model.set("answer", letter);
    model.save_changes();
    const { answered, notice, ...graded } = model.get("result");
    assert.deepEqual(graded, result);
    assert.equal(kernel.quiz(data.quiz).get("result").answer, letter);
    assert.deepEqual(kernel.events().at(-1).outcome, result.correct ? "correct" : "incorrect");
  }
});

test("a file that Python wrote is taken up once, and says the same again", async () => {
  assert.equal(await kernel.imported(data.file), data.told.items.length);
  assert.deepEqual(kernel.items(), data.told.items);
  assert.equal(await kernel.imported(data.file), 0);
  const again = JSON.parse(await kernel.exported("Zoë 🙂"));
  assert.deepEqual(Object.keys(again), Object.keys(data.told));
  assert.deepEqual(again.items, data.told.items);
  assert.equal(again.seal, await kernel.seal(again));
});

test("a file that is none, or was edited, is refused with the reason", async () => {
  await assert.rejects(kernel.imported("{"), /no JSON/);
  await assert.rejects(kernel.imported("[1]"), /no file of progress/);
  await assert.rejects(kernel.imported(JSON.stringify({ ...data.told, version: 2 })), /later version/);
  await assert.rejects(kernel.imported(data.file.replace("incorrect", "correct")), /seal/);
  await assert.rejects(kernel.exported(""), /nothing to export/);
  assert.deepEqual(kernel.events(), []);
});

test("where nothing can be kept, a file is written all the same, and none is said to be taken up", async () => {
  remember(data.events);
  const file = await kernel.exported("Zoë");
  remember(data.events);
  const { setItem } = window.Storage.prototype;
  window.Storage.prototype.setItem = () => {
    throw new Error("full");
  };
  try {
    assert.deepEqual(JSON.parse(await kernel.exported("Zoë")).items, JSON.parse(file).items);
    localStorage.clear();
    await assert.rejects(kernel.imported(file), /keeps nothing/);
  } finally {
    window.Storage.prototype.setItem = setItem;
  }
});

test("a guess of an earlier day is shown if it still is one", () => {
  for (const [state, guess, said, others] of data.guesses) {
    if (guess === null) continue;
    for (const [stored, shown] of [[guess, guess], ...others.map((other) => [other, null])]) {
      remember([{ item: state.asked.id, kind: "guess", detail: JSON.stringify({ guess: stored }) }]);
      const model = kernel.prediction(state, () => {});
      assert.deepEqual([model.get("guess"), model.get("kept"), model.get("said")], [shown, shown !== null, shown === null ? "" : said]);
    }
  }
});

test("a guess is compared and unfolds what answers it, a skipped one too", () => {
  for (const [state, guess, said] of data.guesses) {
    let unfolded = 0;
    const model = kernel.prediction(state, () => (unfolded += 1));
    assert.equal(unfolded, 0);
    model.set(guess === null ? "skipped" : "guess", guess ?? true);
    model.save_changes();
    assert.equal(model.get("said"), said);
    assert.equal(unfolded, 1);
  }
});

test("the script holds no key in plain letters", () => {
  assert.ok(!data.quiz.sealed.includes("key") && JSON.stringify(data.quiz).length > 500);
});

test("hints come one by one, and the solution is noted", () => {
  const model = kernel.exerciseCard(data.exercise);
  const ask = (number, what) => {
    model.set("asked", { number, what });
    model.save_changes();
  };
  ask(1, "hint");
  ask(2, "hint");
  assert.equal(model.get("hints").length, 2);
  ask(3, "solution");
  assert.match(model.get("solution"), /peft-source/);
  assert.deepEqual(kernel.events().map(({ kind }) => kind), ["hint", "hint", "solution"]);
});

test("a figure shows the frame of its setting, the last one fastest", () => {
  const sliders = [{ labels: ["a", "b"] }, { labels: ["1", "2", "3"] }];
  const frames = [0, 1, 2, 3, 4, 5].map((n) => ({ url: `data:${n}`, readouts: [] }));
  const model = kernel.liveFigure({ sliders, position: [0, 1], frames });
  assert.equal(model.get("answer").url, "data:1");
  model.set("position", [1, 2]);
  model.save_changes();
  assert.deepEqual(model.get("answer"), { position: [1, 2], failed: false, url: "data:5", readouts: [] });
});
