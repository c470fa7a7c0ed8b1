// The field for questions in a simulated browser; run by test_compare.py, whose `data` holds a widget's real state.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { axeViolations, browser, data, load, Model } from "./browser.js";

// ipywidgets' models tell their listeners of what the view itself sets, and neither side hears of an equal value.
class Asking extends Model {
  set(name, value) {
    this.receive(name, value);
    this.pending[name] = value;
  }
  receive(name, value) {
    if (JSON.stringify(value) !== JSON.stringify(this.get(name))) super.receive(name, value);
  }
}

const widget = await load(data.esm);

function open() {
  const page = browser();
  const model = new Asking(data.state);
  const close = widget.render({ model, el: page.main });
  const [field, button] = ["input", "button"].map((name) => page.main.querySelector(name));
  const read = {
    names: () => Array.from(page.main.querySelectorAll("dt"), (node) => node.textContent),
    texts: () => Array.from(page.main.querySelectorAll("dd"), (node) => node.textContent),
    notice: () => page.main.querySelector(".peft-notice").textContent,
    busy: () => page.main.querySelector("form").getAttribute("aria-busy"),
  };
  const ask = (question) => {
    field.value = question;
    button.click();
  };
  const answer = (text, done = true, number = model.get("asked").number) =>
    model.receive("answer", { number, question: model.get("asked").question.trim(), rows: [["off", text]], done });
  return { ...page, model, close, field, button, read, ask, answer };
}

test("shows its first answers", async () => {
  const { window, model, close, field, read } = open();
  assert.equal(field.value, data.state.asked.question);
  assert.deepEqual(read.names(), data.state.answer.rows.map(([name]) => name));
  assert.deepEqual(read.texts(), data.state.answer.rows.map(([, text]) => text));
  assert.equal(read.notice(), "");
  assert.equal(read.busy(), "false");
  assert.deepEqual(await axeViolations(window), []);
  close();
  assert.deepEqual(model.listeners, []);
});

test("an answer grows, and the field waits until it is done", () => {
  const { model, read, ask, answer } = open();
  ask("Why?");
  assert.deepEqual(model.saved, [{ asked: { number: 1, question: "Why?" } }]);
  for (const text of ["Be", "Because"]) {
    answer(text, false);
    assert.deepEqual(read.texts(), [text]);
    assert.equal(read.notice(), "Asking …");
    assert.equal(read.busy(), "true", "a screen reader waits for the whole");
  }
  answer("Because");
  assert.equal(read.notice(), "");
  assert.equal(read.busy(), "false");
});

for (const [name, first, second] of [
  ["the same question", "Why?", "Why?"],
  ["only a blank more", "Why?", "Why? "],
  ["another question with the same answer", "Why?", "How?"],
]) {
  test(`${name} is asked and answered`, () => {
    const { model, read, ask, answer } = open();
    ask(first);
    answer("Because.");
    ask(second);
    assert.equal(read.notice(), "Asking …");
    assert.deepEqual(read.texts(), [], "the old answer does not stand under the new question");
    answer("Because.");
    assert.equal(model.saved.length, 2);
    assert.equal(read.notice(), "");
  });
}

test("a kernel that says nothing is said to do so, and leaves a way on", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { main, model, button, ask, answer } = open();
  const lost = () => main.querySelector(".peft-lost").textContent;
  ask("Why?");
  mock.timers.tick(1900);
  assert.equal(lost(), "");
  mock.timers.tick(200);
  assert.equal(lost(), "The kernel does not answer: run this cell again.");
  assert.equal(button.disabled, false);
  ask("Why?");
  assert.equal(model.saved.length, 2);
  answer("", false);
  assert.equal(lost(), "", "a sign of life is enough: answers may take long");
  mock.timers.tick(60_000);
  assert.equal(lost(), "");
  mock.timers.reset();
});

test("a page that answers at once is not said to be gone", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { main, model, ask, answer } = open();
  model.save_changes = () => answer("Because.");
  ask("Why?");
  mock.timers.tick(60_000);
  assert.equal(main.querySelector(".peft-lost").textContent, "");
  mock.timers.reset();
});

test("an answer can be stopped", () => {
  const { main, model, read, ask, answer } = open();
  const stop = [...main.querySelectorAll("button")].find((button) => button.textContent === "Stop");
  assert.equal(stop.hidden, true);
  ask("Why?");
  answer("Be", false);
  assert.equal(stop.hidden, false);
  stop.click();
  assert.deepEqual(model.saved.at(-1), { asked: { number: 1, question: "Why?", stop: true } });
  answer("Be");
  assert.deepEqual(read.texts(), ["Be"]);
  assert.equal(stop.hidden, true);
  ask("How?");
  assert.deepEqual(model.saved.at(-1), { asked: { number: 2, question: "How?" } }, "which is not stopped");
});

test("a suggestion is asked at a click", () => {
  const { main, model, field } = open();
  const offers = [...main.querySelectorAll(".peft-offers button")];
  assert.deepEqual(offers.map((offer) => offer.textContent), data.state.suggestions);
  offers[1].click();
  assert.equal(field.value, data.state.suggestions[1]);
  assert.deepEqual(model.saved, [{ asked: { number: 1, question: data.state.suggestions[1] } }]);
});

test("of two variants a switch shows one, and a button both", async () => {
  const { window, main, model, read, ask } = open();
  const number = () => model.get("asked").number;
  const rows = [["adapter off", "Paris is a city."], ["adapter on", "{}"]];
  const hear = (rows, done) => model.receive("answer", { number: number(), question: "Why?", rows, done });
  const button = main.querySelector("[role=switch]");
  const [state, shown] = [
    () => button.getAttribute("aria-checked"),
    () => Array.from(main.querySelectorAll("dl > div:not([hidden]) dd"), (node) => node.textContent),
  ];
  assert.equal(main.querySelector(".peft-views").hidden, true, "these two are called off and on, of nothing");
  ask("Why?");
  hear(rows, true);
  assert.equal(main.querySelector(".peft-views").hidden, false);
  assert.equal(button.getAttribute("aria-label"), "adapter");
  assert.deepEqual([state(), shown()], ["true", ["{}"]]);
  button.click();
  assert.deepEqual([state(), shown()], ["false", ["Paris is a city."]]);
  const beside = [...main.querySelectorAll("button")].find((button) => button.textContent === "Side by side");
  beside.click();
  assert.deepEqual([beside.getAttribute("aria-pressed"), shown()], ["true", rows.map(([, text]) => text)]);
  assert.deepEqual(await axeViolations(window), []);
  beside.click();
  assert.deepEqual(shown(), ["Paris is a city."]);

  ask("How?");
  assert.deepEqual([state(), shown()], ["false", ["…"]], "nothing of the old answer");
  hear([["adapter off", "Par"]], false);
  assert.deepEqual([state(), shown()], ["false", ["Par"]]);
  hear([rows[0], ["adapter on", "{"]], false);
  assert.deepEqual([state(), shown()], ["true", ["{"]], "it follows the answer that grows");
  button.click();
  hear(rows, false);
  assert.deepEqual([state(), shown()], ["false", ["Paris is a city."]], "until the reader turns it");
  hear([["error", "ArithmeticError: no"]], true);
  assert.deepEqual([main.querySelector(".peft-views").hidden, read.texts()], [true, ["ArithmeticError: no"]]);
});

test("an answer to the question before does not end the waiting", () => {
  const { read, ask, answer } = open();
  ask("Why?");
  ask("How?");
  answer("Because.", true, 1);
  assert.equal(read.busy(), "true");
  answer("So.");
  assert.equal(read.busy(), "false");
});

test("a blank is no question, and what is being typed stays", () => {
  const { window, document, model, field, ask, answer } = open();
  ask("  ");
  assert.equal(model.saved.length, 0);
  let keysInNotebook = 0;
  document.addEventListener("keydown", () => (keysInNotebook += 1));
  field.dispatchEvent(new window.KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  assert.equal(keysInNotebook, 0, "a key that reaches the notebook moves it to another cell");
  ask("Why?");
  field.focus();
  field.value = "And th";
  answer("Be", false);
  field.blur(); // to turn the switch, say
  answer("Because.");
  assert.equal(field.value, "And th");
  ask("And that?  ");
  answer("Because.");
  assert.equal(field.value, "And that?", "as the kernel has it");
});
