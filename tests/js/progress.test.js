// data: the script, the rows of an empty store, and the rows after some answers.

import assert from "node:assert/strict";
import { test } from "node:test";
import { axeViolations, browser, data, load, Model } from "./browser.js";

const widget = await load(data.script);

function open(address) {
  const page = browser(address);
  const model = new Model({ rows: data.empty });
  const el = document.createElement("div");
  page.main.append(el);
  const cleanup = widget.render({ model, el });
  const cells = () => [...el.querySelectorAll("tbody tr")].map((row) => [...row.children].map((c) => c.textContent));
  return { ...page, model, el, cleanup, cells };
}

test("one row a lesson with its number, title, minutes and counts", () => {
  const { cells } = open();
  assert.equal(cells().length, data.empty.length);
  const { number, title, reading, running, quiz } = data.empty[1];
  assert.deepEqual(cells()[1].slice(0, 4), [number, title, `${reading} + ${running}`, `0 of ${quiz.total}`]);
});

test("it asks for fresh counts when it comes into view, and draws them", () => {
  const { model, observers, cells, el } = open();
  assert.equal(observers[0].target, el.querySelector("table"));
  observers[0].callback([{ isIntersecting: false }]);
  assert.deepEqual(model.sent, []);
  observers[0].callback([{ isIntersecting: true }]);
  assert.deepEqual(model.sent, ["refresh"]);
  model.receive("rows", data.answered);
  const { done, total } = data.answered[1].quiz;
  assert.ok(done > 0);
  assert.equal(cells()[1][3], `${done === total ? "✔ " : ""}${done} of ${total}`);
});

test("in JupyterLab a link opens the lesson beside this one, through the command linker", () => {
  const { el, window } = open("http://localhost:8888/lab/tree/my%20course/notebooks/00_start_here.ipynb");
  const link = el.querySelectorAll("a")[1];
  link.addEventListener("click", (event) => event.preventDefault());
  link.dispatchEvent(new window.MouseEvent("click", { bubbles: true, cancelable: true }));
  assert.equal(link.getAttribute("data-commandlinker-command"), "docmanager:open");
  assert.deepEqual(JSON.parse(link.getAttribute("data-commandlinker-args")), {
    path: `my course/notebooks/${data.empty[1].notebook}`,
  });
});

test("elsewhere it is a plain link", () => {
  const { el, window } = open("http://localhost:8888/notebooks/notebooks/00_start_here.ipynb");
  const link = el.querySelectorAll("a")[1];
  link.addEventListener("click", (event) => event.preventDefault());
  link.dispatchEvent(new window.MouseEvent("click", { bubbles: true, cancelable: true }));
  assert.equal(link.hasAttribute("data-commandlinker-command"), false);
  assert.equal(link.getAttribute("href"), data.empty[1].notebook);
});

test("a removed view listens no more", () => {
  const { model, cleanup, observers } = open();
  cleanup();
  assert.deepEqual(model.listeners, []);
  assert.equal(observers[0].target, null);
});

test("axe finds nothing", async () => {
  const { window } = open();
  assert.deepEqual(await axeViolations(window), []);
});
