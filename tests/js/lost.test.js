// Quiz, exercise and certificate say that their kernel is gone, and take it back when it answers.
// data: for each, its script, a state, what to fill in and click, and the kernel's answer.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { browser, data, load, Model } from "./browser.js";

const LOST = "The kernel does not answer: run this cell again.";

test.beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
test.afterEach(() => mock.timers.reset());

for (const { name, script, state, fill, click, answer } of data) {
  const widget = await load(script);

  const open = () => {
    const { main } = browser();
    const model = new Model(state);
    const close = widget.render({ model, el: main });
    const act = () => {
      for (const [selector, value] of fill) {
        const input = main.querySelector(selector);
        if (value === null) input.click();
        else input.value = value;
      }
      main.querySelector(click).click();
    };
    const notice = () => main.querySelector(".peft-lost").textContent;
    const end = () => model.listeners.forEach(([event, react]) => event === "comm_live_update" && react());
    return { model, close, act, notice, end };
  };

  test(`${name}: two seconds without an answer are said, until it comes`, () => {
    const { model, act, notice } = open();
    act();
    mock.timers.tick(1900);
    assert.equal(notice(), "");
    mock.timers.tick(200);
    assert.equal(notice(), LOST);
    model.receive(...answer);
    assert.equal(notice(), "");
  });

  test(`${name}: an answer in time says nothing`, () => {
    const { model, act, notice } = open();
    act();
    model.receive(...answer);
    mock.timers.tick(5000);
    assert.equal(notice(), "");
  });

  test(`${name}: a connection that ends is said at once, and nobody listens when it is closed`, () => {
    const { model, notice, end, close } = open();
    end();
    assert.equal(notice(), LOST);
    close();
    assert.deepEqual(model.listeners, []);
  });
}
