// Sweeps and live figures in a simulated browser, moved by their sliders and by Python; run by test_sweep.py and
// test_live_figure.py, which say in `data` what must be seen: at the start, after each move, and after Python's change.

import assert from "node:assert/strict";
import { test } from "node:test";
import { axeViolations, browser, data, load, Model } from "./browser.js";

// ipywidgets' models tell their listeners of what the view itself sets; bytes arrive as binary.
class Sliders extends Model {
  set(name, value) {
    super.set(name, value);
    this.receive(name, name === "answer" ? { ...value, png: new Uint8Array(value.png) } : value);
  }
}

const widget = await load(data.esm);

for (const [name, { state, start, moves, fromPython, after, then = [], saves, page }] of Object.entries(data.cases)) {
  test(name, async () => {
    const { window, document, main } = browser();
    const dataUrl = /^data:([^;]*);base64,(.*)$/s;

    const model = new Sliders(state);
    if (state.answer) model.state.answer.png = new Uint8Array(state.answer.png);
    const cleanUp = widget.render({ model, el: main });
    const inputs = [...main.querySelectorAll("input[type=range]")];
    const all = (selector, read) => Array.from(main.querySelectorAll(selector), read);
    const read = {
      position: () => model.get("position"),
      names: () => inputs.map((input) => input.labels[0].textContent),
      values: () => inputs.map((input) => Number(input.value)),
      ends: () => inputs.map((input) => [Number(input.min), Number(input.max)]),
      valueTexts: () => inputs.map((input) => input.getAttribute("aria-valuetext")),
      numbers: () => all(".peft-value", (value) => value.textContent),
      disabled: () => inputs.map((input) => input.disabled),
      paths: () => all("svg [data-series]", (path) => path.getAttribute("d")),
      marks: () => all("svg [data-marks]", (path) => path.getAttribute("d")),
      readouts: () => all("[role=status] tr", (row) => [...row.cells].map((cell) => cell.textContent)),
      pictureBytes: () => all("img", (image) => atob(dataUrl.exec(image.src)[2]).length),
      pictureTypes: () => all("img", (image) => dataUrl.exec(image.src)[1]),
      described: () => all("svg[role=img], figure > img", (node) => node.getAttribute("aria-label") ?? node.alt),
      title: () => main.querySelector(".peft-title").textContent,
      caption: () => main.querySelector("figcaption").innerHTML,
      scripts: () => all("script", () => "script").length,
    };
    const expect = (wanted, when) => {
      assert.ok(Object.keys(wanted).length > 0, `nothing is expected ${when}`);
      for (const [key, value] of Object.entries(wanted)) assert.deepEqual(read[key](), value, `${key} ${when}`);
    };

    let keysInNotebook = 0;
    document.addEventListener("keydown", () => (keysInNotebook += 1));

    expect(start, "at the start");
    assert.deepEqual(await axeViolations(window), []);
    const move = ([slider, value, wanted]) => {
      inputs[slider].dispatchEvent(new window.KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
      inputs[slider].value = String(value);
      inputs[slider].dispatchEvent(new window.Event("input", { bubbles: true }));
      expect(wanted, `after slider ${slider} moved to ${value}`);
    };
    moves.forEach(move);
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(model.saved.length, saves, "times that Python was told");
    if (saves) assert.deepEqual(model.saved.at(-1), { position: model.get("position") });
    assert.equal(keysInNotebook, 0, "a key that reaches the notebook moves it to another cell");

    const change = (changes, wanted, when) => {
      for (const [key, value] of Object.entries(changes)) model.set(key, value);
      expect(wanted, when);
    };
    change(fromPython, after, "after Python's change");
    then.forEach((step, number) => {
      if (step.answer) change({ answer: step.answer }, step.shows, `after the answer that is step ${number}`);
      else move(step);
    });
    expect(page, "at the end");
    cleanUp();
    assert.deepEqual(model.listeners, [], "a closed view listens no more");
  });
}
