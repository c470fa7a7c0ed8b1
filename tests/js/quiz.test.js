// data: the script, the state of a fresh quiz, the key, and the kernel's real result for every option.

import assert from "node:assert/strict";
import { test } from "node:test";
import { axeViolations, browser, data, load, Model } from "./browser.js";

const widget = await load(data.script);
const wrong = Object.keys(data.results).find((letter) => letter !== data.key);

function open(state = data.state) {
  const page = browser();
  return { ...page, ...add(page.main, state), page };
}

function add(main, state) {
  const model = new Model(state);
  const el = document.createElement("div");
  main.append(el);
  const cleanup = widget.render({ model, el });
  const radios = [...el.querySelectorAll("input[type=radio]")];
  return {
    model,
    el,
    cleanup,
    radios,
    choose: (letter) => radios.find(({ value }) => value === letter).click(),
    submit: () => el.querySelector("button").click(),
    status: () => el.querySelector("[role=status]").textContent,
    verdicts: () => [...el.querySelectorAll(".peft-option")].map(({ dataset }) => dataset.verdict),
  };
}

test("a form with a legend, real radio buttons and a live status", () => {
  const { el, radios, status } = open();
  assert.ok(el.querySelector("form > fieldset > legend").textContent.length > 10);
  assert.deepEqual(radios.map(({ value }) => value), Object.keys(data.results));
  assert.equal(el.querySelector("[role=status]").getAttribute("aria-live"), "polite");
  assert.equal(status(), "");
  for (const radio of radios) assert.ok(radio.labels[0].textContent.length > 3);
});

test("before an answer the page holds no feedback and no verdict", () => {
  const { el, verdicts } = open();
  for (const { feedback } of Object.values(data.results)) {
    for (const html of Object.values(feedback)) assert.ok(!el.innerHTML.includes(html));
  }
  assert.ok(verdicts().every((verdict) => verdict === ""));
});

test("checking without a choice asks for one and sends nothing", () => {
  const { model, submit, status } = open();
  submit();
  assert.match(status(), /Choose an option/);
  assert.deepEqual(model.saved, []);
});

test("choosing alone sends nothing; checking sends the letter, and nothing else", () => {
  const { model, choose, submit } = open();
  choose(wrong);
  assert.deepEqual(model.saved, []);
  submit();
  assert.deepEqual(model.saved, [{ answer: wrong }]);
});

test("a wrong answer shows its own feedback only and may be tried again", () => {
  const { model, el, choose, submit, status, verdicts, radios } = open();
  choose(wrong);
  submit();
  model.receive("result", data.results[wrong]);
  assert.match(status(), /^✘/);
  assert.ok(el.querySelector("[role=status]").innerHTML.includes(data.results[wrong].feedback[wrong]));
  assert.deepEqual(verdicts().filter(Boolean), ["incorrect"]);
  assert.equal([...el.querySelectorAll(".peft-feedback")].filter(({ hidden }) => !hidden).length, 0);
  assert.ok(radios.every(({ disabled }) => !disabled));
  choose(data.key);
  submit();
  assert.deepEqual(model.saved.at(-1), { answer: data.key });
});

test("the right answer opens the feedback of every option", () => {
  const { model, el, choose, submit, status, verdicts } = open();
  choose(data.key);
  submit();
  model.receive("result", data.results[data.key]);
  assert.match(status(), /^✔/);
  assert.deepEqual(verdicts().filter(Boolean), ["correct"]);
  const visible = [...el.querySelectorAll(".peft-feedback")].filter(({ hidden }) => !hidden);
  assert.equal(visible.length, data.state.question.options.length - 1);
  for (const html of Object.values(data.results[data.key].feedback)) assert.ok(el.innerHTML.includes(html));
});

test("checking the same answer twice asks the kernel once", () => {
  const { model, choose, submit, status } = open();
  choose(wrong);
  submit();
  model.receive("result", data.results[wrong]);
  submit();
  assert.equal(model.saved.length, 1);
  assert.match(status(), /^✘/);
});

test("a stored answer is there when the widget is drawn again", () => {
  const { radios, status, verdicts } = open({ ...data.state, answer: data.key, result: data.results[data.key] });
  assert.equal(radios.find(({ checked }) => checked).value, data.key);
  assert.match(status(), /^✔/);
  assert.deepEqual(verdicts().filter(Boolean), ["correct"]);
});

test("what could not be saved is said in the status, as text", () => {
  const { model, el, status } = open();
  model.receive("result", { ...data.results[wrong], notice: "not saved: <script>x</script>" });
  assert.match(status(), /not saved: <script>/);
  assert.equal(el.querySelector("script"), null);
});

test("arrow keys stay in the quiz, the page's own shortcuts with Control do not", () => {
  const { window, document, radios } = open();
  const seen = [];
  document.addEventListener("keydown", ({ key }) => seen.push(key));
  const press = (key, more = {}) =>
    radios[0].dispatchEvent(new window.KeyboardEvent("keydown", { key, bubbles: true, ...more }));
  press("ArrowDown");
  press("d");
  press("Enter", { shiftKey: true });
  press("s", { ctrlKey: true });
  assert.deepEqual(seen, ["s"]);
});

test("two quizzes on a page keep their choices apart", () => {
  const first = open();
  const second = add(first.main, data.state);
  first.choose(wrong);
  second.choose(data.key);
  assert.equal(first.radios.find(({ checked }) => checked).value, wrong);
  assert.equal(second.radios.find(({ checked }) => checked).value, data.key);
});

test("a removed view listens no more", () => {
  const { model, el, cleanup } = open();
  cleanup();
  const before = el.innerHTML;
  model.receive("result", data.results[wrong]);
  assert.equal(el.innerHTML, before);
  assert.deepEqual(model.listeners, []);
});

test("markup in a question is text", () => {
  const { el } = open(data.hostile);
  assert.equal(el.querySelector("script, img"), null);
  assert.ok(el.textContent.includes("<script>"));
});

test("axe finds nothing, before and after an answer", async () => {
  const { window, model, choose } = open();
  assert.deepEqual(await axeViolations(window), []);
  choose(wrong);
  model.receive("result", data.results[wrong]);
  assert.deepEqual(await axeViolations(window), []);
  model.receive("result", data.results[data.key]);
  assert.deepEqual(await axeViolations(window), []);
});

test("axe would find an option without a label", async () => {
  const { window, radios } = open();
  radios[0].labels[0].replaceWith(radios[0]);
  assert.equal((await axeViolations(window)).length, 1);
});
