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
    submit: () => el.querySelector("button[type=submit]").click(),
    again: el.querySelector("button[type=button]"),
    check: el.querySelector("button[type=submit]"),
    announced: () => [...el.querySelectorAll("[role=status]")].map((node) => node.textContent).filter(Boolean),
    note: () => el.querySelector(".peft-note").textContent,
    said: (letter) => {
      const row = radios.find(({ value }) => value === letter).closest(".peft-option");
      return [...row.querySelectorAll(".peft-feedback")].map((node) => node.innerHTML).join("");
    },
    verdicts: () => [...el.querySelectorAll(".peft-option")].map(({ dataset }) => dataset.verdict),
  };
}

test("a form with a legend, real radio buttons, and places that are announced, all empty", () => {
  const { el, radios, announced, again } = open();
  assert.ok(el.querySelector("form > fieldset > legend").textContent.length > 10);
  assert.deepEqual(radios.map(({ value }) => value), Object.keys(data.results));
  assert.equal(el.querySelectorAll("[role=status]").length, radios.length + 2);
  assert.deepEqual(announced(), []);
  assert.ok([...el.querySelectorAll(".peft-feedback")].every((node) => node.childNodes.length === 0), "no room is kept");
  assert.ok(again.hidden);
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
  const { model, submit, note } = open();
  submit();
  assert.match(note(), /Choose an option/);
  assert.deepEqual(model.saved, []);
});

test("choosing alone sends nothing; checking sends the letter, and nothing else", () => {
  const { model, choose, submit } = open();
  choose(wrong);
  assert.deepEqual(model.saved, []);
  submit();
  assert.deepEqual(model.saved, [{ answer: wrong }]);
});

test("a wrong answer is explained below its option, said once, and may be tried again", () => {
  const { model, radios, choose, submit, announced, verdicts, said } = open();
  choose(wrong);
  submit();
  model.receive("result", data.results[wrong]);
  assert.match(said(wrong), /✘ Not this one/);
  assert.ok(said(wrong).includes(data.results[wrong].feedback[wrong]));
  assert.equal(announced().length, 1);
  assert.match(announced()[0], /^✘/);
  assert.deepEqual(verdicts().filter(Boolean), ["incorrect"]);
  assert.ok(radios.every(({ value }) => value === wrong || said(value) === ""));
  choose(data.key);
  submit();
  assert.deepEqual(model.saved.at(-1), { answer: data.key });
});

test("the right answer explains every option, counts, and takes the button away", () => {
  const { el, model, radios, choose, submit, check, again, announced, verdicts, said, note } = open();
  choose(data.key);
  check.focus();
  submit();
  model.receive("result", data.results[data.key]);
  for (const { value } of radios) assert.ok(said(value).includes(data.results[data.key].feedback[value]));
  assert.match(said(data.key), /✔ Correct/);
  assert.deepEqual(verdicts().filter(Boolean), ["correct"]);
  assert.equal(announced().filter((text) => text.startsWith("✔")).length, 1);
  assert.equal(announced().length, 2, "the verdict and the count, not what is said of the other options");
  assert.match(note(), /^1 of \d answered in this lesson$/);
  assert.ok(check.hidden && !again.hidden);
  assert.equal(document.activeElement, el.querySelector("form"), "the focus stays here");
});

test("an answered question can be answered again", () => {
  const { model, check, again, radios, announced } = open({ ...data.state, answer: data.key, result: data.results[data.key] });
  assert.ok(radios.every((radio) => radio.matches(":disabled")));
  again.click();
  assert.deepEqual(model.saved, [{ answer: "" }]);
  model.receive("result", {});
  assert.ok(again.hidden && !check.hidden);
  assert.ok(radios.every((radio) => !radio.matches(":disabled") && !radio.checked));
  assert.deepEqual(announced(), []);
});

test("checking the same answer twice asks the kernel once", () => {
  const { model, choose, submit, said } = open();
  choose(wrong);
  submit();
  model.receive("result", data.results[wrong]);
  submit();
  assert.equal(model.saved.length, 1);
  assert.match(said(wrong), /✘/);
});

test("a stored answer is there when the widget is drawn again", () => {
  const { radios, said, verdicts } = open({ ...data.state, answer: data.key, result: data.results[data.key] });
  assert.equal(radios.find(({ checked }) => checked).value, data.key);
  assert.match(said(data.key), /✔/);
  assert.deepEqual(verdicts().filter(Boolean), ["correct"]);
});

for (const [name, answer] of Object.entries({ unanswered: "", "answered wrongly": wrong, answered: data.key })) {
  test(`read from a file, ${name}: as it was left, and what brings it back`, () => {
    const result = data.results[answer] ?? {};
    const { model, check, again, radios, note, verdicts } = open({ ...data.state, answer, result, saved: true });
    assert.match(note(), answer === data.key ? /Saved view: run this cell to answer again\.$/ : /^Saved view: run this cell to answer\.$/);
    assert.ok(check.hidden && again.hidden && radios.every((radio) => radio.matches(":disabled")));
    assert.equal(verdicts().filter(Boolean).length, answer ? 1 : 0);
    model.receive("saved", false);
    assert.doesNotMatch(note(), /Saved view/);
    assert.equal(check.hidden, answer === data.key);
  });
}

test("what could not be saved is said in the status, as text", () => {
  const { model, el, note } = open();
  model.receive("result", { ...data.results[wrong], notice: "not saved: <script>x</script>" });
  assert.match(note(), /not saved: <script>/);
  assert.equal(el.querySelector("script"), null);
});

test("arrow keys and letters stay in the quiz; Shift+Enter and shortcuts with Control are the notebook's", () => {
  const { window, document, radios } = open();
  const seen = [];
  document.addEventListener("keydown", ({ key }) => seen.push(key));
  const press = (key, more = {}) =>
    radios[0].dispatchEvent(new window.KeyboardEvent("keydown", { key, bubbles: true, ...more }));
  press("ArrowDown");
  press("d");
  press("Enter", { shiftKey: true });
  press("s", { ctrlKey: true });
  assert.deepEqual(seen, ["Enter", "s"]);
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
