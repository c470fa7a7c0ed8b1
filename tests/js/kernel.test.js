// A live figure whose kernel is slow, gone, or back again; run by test_live_figure.py, whose `data` holds its state and
// the answer to its position [4].

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { browser, data, load, Model } from "./browser.js";

class Telling extends Model {
  set(name, value) {
    super.set(name, value);
    this.receive(name, value);
  }
  end() {
    for (const [event, react] of this.listeners) if (event === "comm_live_update") react();
  }
}

const widget = await load(data.esm);
const LOST = "The kernel does not answer: run this cell again.";

function open() {
  const { main } = browser();
  const pixels = (answer) => ({ ...answer, png: new Uint8Array(answer.png) });
  const model = new Telling(data.state);
  model.state.answer = pixels(model.state.answer);
  const close = widget.render({ model, el: main });
  const notice = main.querySelector(".peft-lost");
  const stale = () => main.querySelector("figure").classList.contains("peft-stale");
  const slide = (at) => model.set("position", [at]);
  const answer = (change = {}) => model.set("answer", { ...pixels(data.answer), ...change });
  return { main, model, close, notice, stale, slide, answer };
}

test.beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
test.afterEach(() => mock.timers.reset());

test("two seconds without an answer are said, until it comes", () => {
  const { notice, stale, slide, answer } = open();
  assert.equal(notice.getAttribute("role"), "status");
  assert.equal(stale(), false);
  slide(4);
  assert.equal(stale(), true, "the picture is not that of the slider");
  mock.timers.tick(1900);
  assert.equal(notice.textContent, "");
  mock.timers.tick(200);
  assert.equal(notice.textContent, LOST);
  answer();
  assert.equal(notice.textContent, "");
  assert.equal(stale(), false);
});

test("sliding on does not start the two seconds anew", () => {
  const { notice, slide } = open();
  for (const at of [3, 4, 3]) {
    slide(at);
    mock.timers.tick(800);
  }
  assert.equal(notice.textContent, LOST);
});

test("an answer to an earlier place is a sign of life, and the last one is still awaited", () => {
  const { notice, stale, slide, answer } = open();
  slide(4);
  slide(3);
  mock.timers.tick(1900);
  answer();
  mock.timers.tick(1900);
  assert.equal(notice.textContent, "");
  assert.equal(stale(), true);
  mock.timers.tick(200);
  assert.equal(notice.textContent, LOST);
});

test("what was seen before needs no kernel, nor does an error wait for another answer", () => {
  const { notice, stale, slide, answer } = open();
  slide(4);
  answer();
  slide(data.state.position[0]);
  slide(4);
  slide(3);
  answer({ position: [3], failed: true, readouts: [["error", "ArithmeticError: no"]] });
  mock.timers.tick(5000);
  assert.equal(notice.textContent, "");
  assert.equal(stale(), false);
});

test("a connection that ends is said at once", () => {
  const { model, notice, answer, close } = open();
  model.comm_live = true; // Jupyter's own model says that it lives
  model.end();
  assert.equal(notice.textContent, "");
  model.comm_live = false;
  model.end();
  assert.equal(notice.textContent, LOST);
  answer({ position: data.state.position });
  assert.equal(notice.textContent, "");
  delete model.comm_live; // anywidget's tells only that it has changed
  model.end();
  assert.equal(notice.textContent, LOST);
  close();
  assert.deepEqual(model.listeners, []);
});
