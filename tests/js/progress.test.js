// data: the script, and the rows of an empty store, after an answer, with one question left, and with all done.

import assert from "node:assert/strict";
import { test } from "node:test";
import { axeViolations, browser, data, load, Model } from "./browser.js";

const widget = await load(data.script);
const HALVES = { earlier: { close: 1, total: 4 }, later: { close: 3, total: 4 } };

function open({ address, rows = data.empty, model = new Model({ rows, guesses: {}, certificate: {} }), ...more } = {}) {
  const page = browser(address);
  Object.assign(model.state ?? {}, more);
  const el = document.createElement("div");
  page.main.append(el);
  const cleanup = widget.render({ model, el });
  const lines = () => [...el.querySelectorAll("li")].map((line) => [...line.children].map((part) => part.textContent));
  const go = () => el.querySelector(".peft-go")?.textContent;
  const text = () => el.querySelector(".peft-head").textContent;
  return { ...page, model, el, cleanup, lines, go, text };
}

const things = ({ quiz, exercise }) => [quiz.done + exercise.done, quiz.total + exercise.total];
const total = data.empty.reduce((all, row) => all + things(row)[1], 0);

test("one line a lesson: number, title, bar, how much is done, minutes", () => {
  const { lines } = open({ rows: data.answered });
  assert.equal(lines().length, data.empty.length);
  const { number, title, reading, running } = data.answered[1];
  const [done, all] = things(data.answered[1]);
  assert.deepEqual(lines()[1], [number, title, "", `${done} of ${all}`, `${reading + running} min`]);
});

test("bars are as long as what is done", () => {
  const { el } = open({ rows: data.answered });
  const bars = [...el.querySelectorAll("li .peft-bar span")].map((fill) => parseFloat(fill.style.width));
  assert.deepEqual(bars, data.answered.map((row) => (100 * things(row)[0]) / things(row)[1]));
  const whole = el.querySelector("[role=progressbar]");
  assert.equal(whole.getAttribute("aria-valuenow"), "1");
  assert.equal(whole.getAttribute("aria-valuemax"), String(total));
});

test("it says where to begin, where to go on, and that all is done", () => {
  const minutes = data.empty.reduce((all, { reading, running }) => all + reading + running, 0);
  const fresh = open();
  assert.equal(fresh.go(), `Begin with ${data.empty[0].number} · ${data.empty[0].title}`);
  const [, hours, tens] = fresh.text().match(/about (\d+) h (?:(\d+) min )?left/);
  assert.ok(Math.abs(60 * hours + Number(tens ?? 0) - minutes) <= 5);
  assert.equal(open({ rows: data.answered }).go(), `Go on with ${data.empty[0].number} · ${data.empty[0].title}`);
  const nearly = open({ rows: data.nearly });
  const last = data.nearly.at(-1);
  assert.equal(nearly.go(), `Go on with ${last.number} · ${last.title}`);
  assert.match(nearly.text(), new RegExp(`about ${last.reading + last.running} min left`));
  assert.equal(nearly.lines()[0][3], "✔ done");
  const done = open({ rows: data.done });
  assert.equal(done.go(), undefined);
  assert.match(done.text(), new RegExp(`All ${total} questions and exercises done`));
});

test("it asks for fresh counts when it comes into view, and draws them", () => {
  const { model, observers, lines, el } = open();
  assert.equal(observers[0].target, el.querySelector("section"));
  observers[0].callback([{ isIntersecting: false }]);
  assert.deepEqual(model.sent, []);
  observers[0].callback([{ isIntersecting: true }]);
  assert.deepEqual(model.sent, ["refresh"]);
  model.receive("rows", data.answered);
  assert.equal(lines()[1][3], `1 of ${things(data.answered[1])[1]}`);
});

test("guesses are compared once there are some", () => {
  const { model, el } = open();
  assert.equal(el.querySelector(".peft-guesses").textContent, "");
  model.receive("guesses", HALVES);
  assert.match(el.querySelector(".peft-guesses").textContent, /better\.the earlier 41 of 4the later 43 of 4$/);
  model.receive("guesses", { earlier: HALVES.later, later: HALVES.earlier });
  assert.doesNotMatch(el.querySelector(".peft-guesses").textContent, /better/);
});

test("the certificate is offered when all is done, and asked for with the name that was typed", () => {
  assert.ok(open({ rows: data.nearly }).el.querySelector("form").hidden);
  const { model, el, window } = open({ rows: data.done });
  const form = el.querySelector("form");
  assert.ok(!form.hidden);
  form.querySelector("input").value = "Ada";
  form.dispatchEvent(new window.Event("submit", { bubbles: true, cancelable: true }));
  assert.deepEqual(model.sent, [{ certificate: "Ada" }]);
  model.receive("certificate", { file: "c.html", said: "Written to <b>/home/ada/c.html</b>." });
  const said = el.querySelector("[role=status]");
  assert.equal(said.textContent, "Written to <b>/home/ada/c.html</b>. Open it.");
  assert.equal(said.querySelector("a").getAttribute("href"), "/files/notebooks/c.html");
  assert.ok(open({ rows: data.done, saved: true }).el.querySelector("form").hidden, "without a kernel nobody writes it");
});

for (const [address, file] of [
  ["http://x/user/ada/lab/workspaces/w/tree/a%20b/00.ipynb", "/user/ada/files/a%20b/c.html"],
  ["http://x/doc/tree/00.ipynb", "/files/c.html"],
  ["http://x/notebooks/00.ipynb", undefined],
]) {
  test(`the certificate is opened from where it lies: ${address}`, () => {
    const { el } = open({ address, rows: data.done, certificate: { file: "c.html", said: "Written." } });
    assert.equal(el.querySelector("[role=status] a")?.getAttribute("href"), file);
  });
}

for (const place of [".peft-go", "li:nth-child(2) a"]) {
  const lesson = data.empty[place === ".peft-go" ? 0 : 1];
  const click = (address) => {
    const { el, window } = open({ address });
    const link = el.querySelector(place);
    link.addEventListener("click", (event) => event.preventDefault());
    link.dispatchEvent(new window.MouseEvent("click", { bubbles: true, cancelable: true }));
    return link;
  };

  test(`in JupyterLab ${place} opens the lesson beside this one, through the command linker`, () => {
    const link = click("http://localhost:8888/lab/tree/my%20course/notebooks/00_start_here.ipynb");
    assert.equal(link.getAttribute("data-commandlinker-command"), "docmanager:open");
    assert.deepEqual(JSON.parse(link.getAttribute("data-commandlinker-args")), {
      path: `my course/notebooks/${lesson.notebook}`,
    });
  });

  test(`elsewhere ${place} is a plain link`, () => {
    for (const address of ["http://x/notebooks/notebooks/00_start_here.ipynb", "http://x/doc/tree/00_start_here.ipynb"]) {
      const link = click(address);
      assert.equal(link.hasAttribute("data-commandlinker-command"), false);
      assert.equal(link.getAttribute("href"), lesson.notebook);
    }
  });
}

test("keys stay in the map, the page's own shortcuts with Control do not", () => {
  const { window, document, el } = open();
  const seen = [];
  document.addEventListener("keydown", ({ key }) => seen.push(key));
  for (const [key, ctrlKey] of [["Enter", false], ["s", true]]) {
    el.querySelector("a").dispatchEvent(new window.KeyboardEvent("keydown", { key, ctrlKey, bubbles: true }));
  }
  assert.deepEqual(seen, ["s"]);
});

test("read from a file, it says what brings it up to date", () => {
  const { el, model } = open({ saved: true });
  assert.match(el.textContent, /Saved view: run this cell/);
  model.receive("saved", false);
  assert.doesNotMatch(el.textContent, /Saved view/);
});

test("a removed view listens no more", () => {
  const { model, cleanup, observers } = open();
  cleanup();
  assert.deepEqual(model.listeners, []);
  assert.equal(observers[0].target, null);
});

test("axe finds nothing", async () => {
  for (const rows of [data.empty, data.answered, data.done]) {
    const { window } = open({ rows, guesses: HALVES });
    assert.deepEqual(await axeViolations(window), []);
  }
});
