// The quiz and the map as a page without a kernel drives them: by a model of ten lines, without `send`.
// data: both scripts, a quiz's state, its key, the results for every option, and the map's rows.

import assert from "node:assert/strict";
import { test } from "node:test";
import { browser, data, load } from "./browser.js";

class PageModel {
  listeners = [];
  constructor(state, answer = () => {}) {
    Object.assign(this, { state, answer });
  }
  get = (name) => this.state[name];
  set(name, value) {
    this.state[name] = value;
    this.listeners.filter(([event]) => event === `change:${name}`).forEach(([, react]) => react());
  }
  on = (event, react) => this.listeners.push([event, react]);
  off = (event, react) => (this.listeners = this.listeners.filter(([e, r]) => e !== event || r !== react));
  save_changes = () => this.answer(this);
}

async function open(script, model) {
  const widget = await load(script);
  const { main, observers } = browser("https://lessons.example.org/03.html");
  const cleanup = widget.render({ model, el: main });
  return { main, observers, cleanup };
}

test("a quiz is answered wrongly, rightly, and again", async () => {
  const grade = (model) => model.set("result", data.results[model.get("answer")] ?? {});
  const model = new PageModel(structuredClone(data.quiz), grade);
  const { main, cleanup } = await open(data.quizScript, model);
  const answer = (letter) => {
    main.querySelector(`input[value=${letter}]`).click();
    main.querySelector("button[type=submit]").click();
    return main.querySelector("[data-verdict]:not([data-verdict=''])");
  };
  const wrong = Object.keys(data.results).find((letter) => letter !== data.key);
  assert.equal(answer(wrong).dataset.verdict, "incorrect");
  assert.equal(answer(data.key).dataset.verdict, "correct");
  main.querySelector("button[type=button]").click();
  assert.equal(main.querySelector("input:checked"), null);
  assert.equal(answer(data.key).dataset.verdict, "correct");
  cleanup();
  assert.deepEqual(model.listeners, []);
});

test("the map shows its rows, asks nobody, and offers no certificate", async () => {
  const model = new PageModel({ rows: data.rows });
  const { main, observers, cleanup } = await open(data.mapScript, model);
  observers[0].callback([{ isIntersecting: true }]);
  assert.equal(main.querySelectorAll("li").length, data.rows.length);
  assert.equal(main.querySelector(".peft-go").getAttribute("href"), data.rows[0].notebook);
  const part = (each) => ({ ...each, done: each.total });
  model.set("rows", data.rows.map((row) => ({ ...row, quiz: part(row.quiz), exercise: part(row.exercise) })));
  assert.match(main.textContent, /All \d+ questions and exercises done/);
  assert.ok(main.querySelector("form").hidden);
  cleanup();
  assert.deepEqual(model.listeners, []);
});
