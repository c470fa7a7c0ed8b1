// data: the script, and the state of the card of an exercise that was not attempted.

import assert from "node:assert/strict";
import { test } from "node:test";
import { axeViolations, browser, data, load, Model } from "./browser.js";

const widget = await load(data.script);

function open(state = {}) {
  const page = browser();
  const model = new Model({ ...data.state, ...state });
  const el = document.createElement("div");
  page.main.append(el);
  widget.render({ model, el });
  const button = (start) => [...el.querySelectorAll("button")].find(({ textContent }) => textContent.startsWith(start));
  return { ...page, model, el, button, status: () => el.querySelector("[role=status]").textContent };
}

test("the verdict is said, and what can be asked for", () => {
  const { el, button, status } = open();
  assert.match(status(), /^○ Exercise 03-merge: not attempted/);
  assert.equal(el.querySelector("section").dataset.outcome, "not attempted");
  assert.ok(button("Check") && button("Hint 1 of 3") && button("Solution"));
});

test("a check asks the kernel where no page can run the cell", () => {
  const { model, button, status } = open();
  button("Check").click();
  assert.deepEqual(model.saved, [{ asked: { number: 1, what: "check" } }]);
  assert.match(status(), /Checking/);
});

test("the same verdict once more is shown again", () => {
  const { model, button, status } = open();
  const before = status();
  button("Check").click();
  model.receive("heard", 1);
  model.receive("answered", 1);
  assert.equal(status(), before);
});

test("a page that can run the student's cell does so before the kernel checks", () => {
  const { model, el, button } = open();
  let seen;
  el.addEventListener("peft:run", (event) => {
    event.preventDefault();
    seen = event.detail;
  });
  button("Check").click();
  assert.equal(seen.exercise, "03-merge");
  assert.deepEqual(model.saved, []);
  seen.done();
  assert.deepEqual(model.saved, [{ asked: { number: 1, what: "check" } }]);
});

test("hints are counted and stay; the solution can be asked for once", () => {
  const { model, el, button } = open();
  button("Hint 1").click();
  assert.deepEqual(model.saved, [{ asked: { number: 1, what: "hint" } }]);
  model.receive("hints", ["one"]);
  assert.ok(button("Hint 2 of 3"));
  model.receive("hints", ["one", "two", "three"]);
  assert.equal(el.querySelectorAll("li").length, 3);
  assert.ok(button("Hint").hidden);
  button("Solution").click();
  assert.deepEqual(model.saved.at(-1), { asked: { number: 2, what: "solution" } });
  model.receive("solution", "<pre>x</pre>");
  assert.ok(button("Solution").hidden);
  assert.equal(el.querySelector("pre").textContent, "x");
});

test("no fault that axe finds", async () => {
  const { window } = open({ hints: ["one"] });
  assert.deepEqual(await axeViolations(window), []);
});
