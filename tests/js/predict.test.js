// data: the script, the state of a fresh prediction of each kind, and a guess for each.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { axeViolations, browser, data, load, Model } from "./browser.js";

const widget = await load(data.script);
const KINDS = Object.keys(data.states);

function open(kind, state = {}) {
  const page = browser();
  const model = new Model({ ...data.states[kind], ...state });
  const el = document.createElement("div");
  page.main.append(el);
  const cleanup = widget.render({ model, el });
  const button = (text) => [...el.querySelectorAll("button")].find(({ textContent }) => textContent === text);
  return {
    ...page,
    model,
    el,
    cleanup,
    guess: () => button("This is my guess").click(),
    skip: () => button("Skip").click(),
    status: () => el.querySelector(".peft-status").textContent,
    lost: () => el.querySelector(".peft-lost").textContent,
    state: () => el.querySelector("form").dataset.state,
  };
}

for (const kind of KINDS) {
  test(`${kind}: nothing is sent before one guesses, and then the guess alone`, () => {
    const { model, el, guess, state } = open(kind);
    assert.equal(state(), "open");
    assert.deepEqual(model.saved, []);
    el.querySelector("input[type=radio]")?.click();
    guess();
    assert.equal(model.saved.length, 1);
    assert.deepEqual(Object.keys(model.saved[0]), ["guess"]);
    assert.equal(state(), "settled");
    assert.ok(el.querySelector("fieldset").disabled);
  });

  test(`${kind}: an earlier guess is shown as it was`, () => {
    const { el, state, status } = open(kind, { guess: data.guesses[kind], kept: true });
    assert.equal(state(), "settled");
    assert.match(status(), /Your guess is kept/);
    const shown = {
      number: () => Number.parseFloat(el.querySelector("output").textContent),
      choice: () => Number(el.querySelector("input:checked").value),
      ranking: () => [...el.querySelectorAll("li")].map(({ dataset }) => Number(dataset.place)),
      curve: () => [...el.querySelectorAll("output")].map(({ textContent }) => Number.parseFloat(textContent)),
    }[kind]();
    const close = (a, b) => assert.ok(Math.abs(a - b) <= 0.05 * b, `${a} for ${b}`);
    if (kind === "number") close(shown, data.guesses[kind]);
    else if (kind === "curve") shown.forEach((value, index) => close(value, data.guesses[kind][index]));
    else assert.deepEqual(shown, data.guesses[kind]);
  });

  test(`${kind}: no fault that axe finds`, async () => {
    const { window } = open(kind);
    assert.deepEqual(await axeViolations(window), []);
  });
}

test("one may skip, and is told what comes next", () => {
  const { model, skip, state, status } = open("number");
  skip();
  assert.deepEqual(model.saved, [{ skipped: true }]);
  assert.equal(state(), "settled");
  assert.match(status(), /Skipped/);
});

test("a guess is said to be kept once it is, and a kernel that keeps nothing to be gone", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { model, guess, status, lost } = open("number");
  guess();
  assert.match(status(), /on its way/);
  mock.timers.tick(2100);
  assert.equal(lost(), "The kernel does not answer: run this cell again.");
  model.receive("kept", true);
  assert.deepEqual([status(), lost()], ["Your guess is kept. Run the next cell.", ""]);
  model.receive("notice", "It could not be written down.");
  assert.equal(status(), "Run the next cell. It could not be written down.");
  mock.timers.reset();
});

test("a page that answers at once is not said to be gone", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { model, guess, lost } = open("number");
  model.save_changes = () => model.receive("kept", true);
  guess();
  mock.timers.tick(5000);
  assert.equal(lost(), "");
  mock.timers.reset();
});

test("nothing is guessed in a saved view, which no kernel hears", () => {
  const { el, model, status } = open("number", { saved: true });
  assert.equal(status(), "Saved view: run this cell to guess.");
  assert.ok(el.querySelector("fieldset").disabled && el.querySelector(".peft-buttons").hidden);
  model.receive("saved", false);
  assert.ok(!el.querySelector("fieldset").disabled && !el.querySelector(".peft-buttons").hidden);
  const guessed = open("number", { saved: true, guess: 20, kept: true });
  assert.equal(guessed.status(), "Your guess. Run this cell, then the next.");
  const told = open("number", { saved: true, guess: 20, kept: true, said: "You said 20; it is 52." });
  assert.equal(told.status(), "You said 20; it is 52.");
});

test("the keyboard stays in the question when its button goes, and a closed one listens no more", () => {
  const { el, model, guess, cleanup } = open("number");
  el.querySelector("button[type=submit]").focus();
  guess();
  assert.equal(document.activeElement, el.querySelector("form"));
  cleanup();
  assert.deepEqual(model.listeners, []);
});

test("a choice must be made first", () => {
  const { model, guess, status } = open("choice");
  guess();
  assert.deepEqual(model.saved, []);
  assert.match(status(), /Choose one first/);
});

test("what came out stands in place of what comes next", () => {
  const { model, status } = open("number", { guess: 20 });
  model.receive("said", "You said 20; it is 52.");
  assert.equal(status(), "You said 20; it is 52.");
});

test("a ranking is sorted with its buttons", () => {
  const { model, el, guess } = open("ranking");
  el.querySelector("button[aria-label^='Move LoRA up']").click();
  guess();
  assert.deepEqual(model.saved, [{ guess: [1, 0, 2] }]);
});

test("arrow keys stay in the question, Shift and Enter reach the notebook", () => {
  const { el, window } = open("number");
  const seen = [];
  window.document.addEventListener("keydown", ({ key }) => seen.push(key));
  const press = (key, extra = {}) =>
    el.querySelector("input").dispatchEvent(new window.KeyboardEvent("keydown", { key, bubbles: true, ...extra }));
  press("ArrowUp");
  press("Enter", { shiftKey: true });
  assert.deepEqual(seen, ["Enter"]);
});
