// The field for questions in a simulated browser; run by test_compare.py, whose `data` holds a widget's real state.

import assert from "node:assert/strict";
import { test } from "node:test";
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
    assert.match(read.notice(), /run this cell again/);
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
    assert.match(read.notice(), /run this cell again/);
    answer("Because.");
    assert.equal(model.saved.length, 2);
    assert.equal(read.notice(), "");
  });
}

test("a kernel that says nothing leaves a way on", () => {
  const { model, button, read, ask } = open();
  ask("Why?");
  assert.match(read.notice(), /run this cell again/);
  assert.equal(button.disabled, false);
  ask("Why?");
  assert.equal(model.saved.length, 2);
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
  answer("Because.");
  assert.equal(field.value, "And th");
});
