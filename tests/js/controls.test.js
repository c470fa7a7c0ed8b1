// The controls of a sweep other than sliders, its points and its drawing for a phone; run by test_sweep.py, whose `data`
// holds the state of a sweep with the settings method (three names), checkpointing (no, yes) and rank (numbers).

import assert from "node:assert/strict";
import { test } from "node:test";
import { axeViolations, browser, data, load, Model } from "./browser.js";

class Telling extends Model {
  set(name, value) {
    super.set(name, value);
    this.receive(name, value);
  }
}

const widget = await load(data.esm);

function open() {
  const page = browser();
  const model = new Telling(data.state);
  const close = widget.render({ model, el: page.main });
  const find = (selector) => page.main.querySelector(selector);
  const press = (element, key, more = {}) =>
    element.dispatchEvent(new page.window.KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }));
  return { ...page, model, close, find, press };
}

test("names are segments of which one is pressed", async () => {
  const { window, main, model, find } = open();
  const group = find("[role=radiogroup]");
  assert.equal(group.getAttribute("aria-label"), "method");
  const radios = [...group.querySelectorAll("input[type=radio]")];
  assert.deepEqual(radios.map((radio) => radio.labels[0].textContent), ["LoRA", "DoRA", "VeRA"]);
  assert.deepEqual(radios.map((radio) => radio.checked), [false, true, false]);
  radios[2].click();
  assert.deepEqual(model.get("position"), [2, 0, 1]);
  model.set("position", [0, 0, 1]);
  assert.equal(radios[0].checked, true);
  assert.equal(main.querySelectorAll("input[type=range]").length, 1, "only numbers have a slider");
  assert.deepEqual(await axeViolations(window), []);
});

test("names that do not fit into a row become a list", async () => {
  const { window, find, model, sized } = open();
  const [group, select] = [find("[role=radiogroup]"), find("select")];
  assert.deepEqual([group.hidden, select.hidden], [false, true]);
  Object.defineProperty(group, "scrollWidth", { value: 300 });
  sized.get(find(".peft-controls"))(200);
  assert.deepEqual([group.hidden, select.hidden], [true, false]);
  assert.deepEqual(await axeViolations(window), []);
  assert.equal(select.value, "DoRA");
  select.value = "VeRA";
  select.dispatchEvent(new window.Event("change"));
  assert.deepEqual(model.get("position"), [2, 0, 1]);
});

test("yes and no are a switch", () => {
  const { find, model } = open();
  const button = find("[role=switch]");
  assert.equal(button.getAttribute("aria-label"), "checkpointing");
  assert.equal(button.getAttribute("aria-checked"), "false");
  button.click();
  assert.equal(button.getAttribute("aria-checked"), "true");
  assert.deepEqual(model.get("position"), [1, 1, 1]);
  button.click();
  assert.deepEqual(model.get("position"), [1, 0, 1]);
});

test("keys stay in the figure, but for those of the notebook's commands", () => {
  const { document, main, press } = open();
  const heard = [];
  document.addEventListener("keydown", ({ key }) => heard.push(key));
  for (const control of main.querySelectorAll("input, [role=switch], select, [role=slider]")) {
    press(control, "ArrowDown");
    press(control, "s", { ctrlKey: true });
    assert.deepEqual(heard.splice(0), ["s"]);
  }
});

test("arrow keys go from point to point, one stop for all", () => {
  const { model, find, main, press } = open();
  const point = find("[role=slider]");
  const said = () => point.getAttribute("aria-valuetext");
  assert.equal(main.querySelectorAll("[tabindex]").length, 1);
  assert.equal(said(), data.points[0][0]);
  press(point, "ArrowRight");
  assert.equal(said(), data.points[0][1]);
  press(point, "ArrowUp");
  assert.equal(said(), data.points[1][0], "the nearest of the other line, which has a gap there");
  press(point, "End");
  assert.equal(said(), data.points[1].at(-1));
  press(point, "ArrowRight");
  assert.equal(said(), data.points[1].at(-1));
  assert.equal(point.textContent, said(), "the words that are seen");
  assert.deepEqual(["valuenow", "valuemax"].map((name) => point.getAttribute(`aria-${name}`)), ["2", "2"]);
  model.set("position", [1, 1, 1]);
  assert.notEqual(said(), data.points[1].at(-1), "a point follows its setting");
});

test("the mouse names the point that is nearest", () => {
  const { window, find } = open();
  const picture = find("figure > svg");
  picture.getBoundingClientRect = () => ({ left: 0, top: 0, width: 640, height: 360 });
  for (const { path, series } of [{ path: 0, series: 0 }, { path: 1, series: 1 }]) {
    const [, x, y] = /M([\d.]+) ([\d.]+)/.exec(data.state.frames[data.at].paths[path]);
    const move = new window.MouseEvent("pointermove", { clientX: Number(x) + 2, clientY: Number(y) - 2 });
    picture.dispatchEvent(move);
    assert.equal(find(".peft-shown").textContent, data.points[series][0]);
  }
  picture.dispatchEvent(new window.MouseEvent("pointerleave"));
  assert.equal(find(".peft-shown"), null);
});

test("on a phone the drawing is another, with the same curves", () => {
  const { find, sized, close } = open();
  const picture = find("figure > svg");
  const path = () => picture.querySelector("[data-series]").getAttribute("d");
  const wide = [path(), picture.dataset.plot];
  sized.get(find("figure"))(358);
  assert.equal(picture.getAttribute("viewBox"), "0 0 360 300");
  const share = (d, plot) => {
    const [left, right, top, bottom] = plot.split(" ").map(Number);
    return Array.from(d.matchAll(/[ML]([\d.]+) ([\d.]+)/g), ([, a, b]) => [(a - left) / (right - left), (b - top) / (bottom - top)]);
  };
  const [before, now] = [share(...wide), share(path(), picture.dataset.plot)];
  assert.equal(now.length, before.length);
  before.forEach((place, i) => place.forEach((value, j) => assert.ok(Math.abs(value - now[i][j]) < 0.002)));
  sized.get(find("figure"))(700);
  assert.equal(path(), wide[0], "and back");
  close();
  assert.equal(sized.size, 0);
});
