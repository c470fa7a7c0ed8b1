// A widget's script on a page without Jupyter: all that it may ask of its model stands here. Run by the tests of each
// widget, whose `data` holds its script and state, and the text that its page must show.

import assert from "node:assert/strict";
import { test } from "node:test";
import { browser, data, load } from "./browser.js";

function plain(state) {
  const listeners = [];
  const get = (name) => state[name];
  const set = (name, value) => {
    state[name] = value;
    listeners.filter(([event]) => event === `change:${name}`).forEach(([, react]) => react());
  };
  const on = (event, react) => listeners.push([event, react]);
  const off = (event, react) => listeners.splice(listeners.findIndex(([e, r]) => e === event && r === react), 1);
  return { model: { get, set, on, off, save_changes: () => {} }, listeners };
}

test("a page without Jupyter shows the widget and works it", async () => {
  const { window, main } = browser();
  if (data.state.answer?.png) data.state.answer.png = new Uint8Array(data.state.answer.png);
  const { model, listeners } = plain(data.state);
  const close = (await load(data.esm)).render({ model, el: main });
  for (const text of data.shows) assert.ok(main.textContent.includes(text), `${text} in ${main.textContent}`);
  for (const selector of data.press) main.querySelector(selector).click();
  for (const [name, value] of Object.entries(data.then)) assert.deepEqual(model.get(name), value, name);
  for (const text of data.showsThen) assert.ok(main.textContent.includes(text), `${text} in ${main.textContent}`);
  close();
  assert.deepEqual(listeners, []);
  window.close();
});
