// data: the widget's script and its rasterizer's, a fresh state, and what Python says of the square.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { axeViolations, browser, data, load, Model } from "./browser.js";

const widget = await load(data.script);
const ink = await import(`data:text/javascript,${encodeURIComponent(data.ink)}`);

// The rasterizer

const total = (pixels) => pixels.reduce((sum, one) => sum + one, 0); // in pixels
const close = (is, wanted, within) => assert.ok(Math.abs(is - wanted) <= within, `${is} for ${wanted}`);
const rows = (digits) => digits.match(/.{32}/g);
const inked = (lines) => lines.flatMap((line, at) => (/[8-f]/.test(line) ? [at] : []));
const columns = (digits) => Array.from({ length: 32 }, (_, x) => rows(digits).map((row) => row[x]).join(""));

test("a dot is a disc, a straight line a bar with round ends", () => {
  // There are 8 samples along a pixel: of those at a shape's border one in ten may be too many, or missing.
  for (const pen of [16, 40, 80]) {
    const [width, area] = [pen / 16, Math.PI * (pen / 32) ** 2];
    const within = (border) => (0.1 * border * 8) / 64;
    close(total(ink.coverage([[[100, 200]]], pen)), area, within(Math.PI * width));
    for (const [x, y] of [[200, 0], [0, 200], [120, 160]]) {
      const line = total(ink.coverage([[[150, 150], [150 + x, 150 + y]]], pen));
      close(line, (200 / 16) * width + area, within((2 * 200) / 16 + Math.PI * width));
    }
  }
});

test("an upright covers its pixels whole, and the halves beside it half", () => {
  const row = rows(ink.picture([[[256, 80], [256, 400]]], 48))[15]; // three pixels wide, in the middle of 32
  assert.equal(row.slice(13, 19), "08ff80");
});

test("what is drawn twice, or crosses, is inked once", () => {
  const line = [[100, 100], [300, 300]];
  assert.deepEqual(ink.coverage([line, line], 30), ink.coverage([line], 30));
});

test("ink is moved to the horizontal middle, and neither up nor down", () => {
  const l = (x) => [[[x, 48], [x, 368], [x + 96, 368]]];
  const there = ink.picture(l(40), 32);
  assert.equal(there, ink.picture(l(300), 32));
  const across = inked(columns(there));
  assert.equal(across[0] + across.at(-1), 31);
  const down = inked(rows(ink.picture([[[200, 32], [200, 23 * 16]]], 32)));
  assert.deepEqual([down[0], down.at(-1)], [1, 23], "from row 2 to the baseline, a pixel of pen around");
});

test("curves lean towards their points, and begin and end where the pen did", () => {
  const corner = [[0, 0], [100, 0], [100, 100]];
  const line = ink.smoothed(corner);
  assert.deepEqual([line[0], line.at(-1)], [corner[0], corner[2]]);
  assert.ok(line.some(([x, y]) => x === 75 && y === 25), "a parabola's middle");
  const circle = Array.from({ length: 41 }, (_, i) => [256 + 100 * Math.cos((i * Math.PI) / 20), 256 + 100 * Math.sin((i * Math.PI) / 20)]);
  for (const [x, y] of ink.smoothed(circle)) close(Math.hypot(x - 256, y - 256), 100, 1.5);
});

test("ink over the border is cut off, none wraps around", () => {
  const picture = ink.picture([[[0, 0], [512, 0]], [[0, 512], [512, 512]]], 64);
  assert.deepEqual(inked(rows(picture)), [0, 1, 30, 31]);
});

test("Python checks what the page sends by the same numbers", () => {
  assert.equal(ink.SIDE, data.side);
  assert.equal(ink.SIZE ** 2, data.pixels);
  const { el } = open();
  const { min, max } = el.querySelector("input[type=range]");
  assert.deepEqual([Number(min), Number(max)], data.pens);
});

// The widget

function open(state = {}) {
  const page = browser();
  const model = new Model({ ...data.state, ...state });
  const el = document.createElement("div");
  page.main.append(el);
  const cleanup = widget.render({ model, el });
  const square = el.querySelector(".peft-square");
  square.querySelector("svg").getBoundingClientRect = () => ({ left: 10, top: 20, width: 256, height: 256 }); // half of SIDE
  const pointer = (type, [x, y], { button = 0, ...more } = {}) => {
    const at = { clientX: 10 + x / 2, clientY: 20 + y / 2 };
    const event = new page.window.MouseEvent(type, { bubbles: true, cancelable: true, button, ...at });
    Object.assign(event, { pointerId: 1, ...more });
    square.dispatchEvent(event);
    return event;
  };
  const draw = (...points) => {
    pointer("pointerdown", points[0]);
    points.slice(1).forEach((point) => pointer("pointermove", point));
    pointer("pointerup", points.at(-1));
  };
  const press = (key, more = {}, target = square) => {
    const event = new page.window.KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
    target.dispatchEvent(event);
    return event;
  };
  const button = (text) => [...el.querySelectorAll("button")].find(({ textContent }) => textContent === text);
  return {
    ...page,
    model,
    el,
    cleanup,
    square,
    pointer,
    draw,
    press,
    button,
    letters: () => model.get("drawn").letters,
    strokes: (letter) => model.get("drawn").letters[letter]?.strokes,
    at: () => el.querySelector(".peft-task strong").textContent,
    radio: (letter) => [...el.querySelectorAll("input[type=radio]")].find((one) => one.getAttribute("aria-label").startsWith(letter)),
    status: () => el.querySelector(".peft-status").textContent,
    lines: () => el.querySelectorAll(".peft-ink path").length,
  };
}

const DOWN = [[100, 60], [100, 200], [100, 360]];
const ACROSS = [[100, 360], [240, 360]];

test("a stroke becomes points, a picture, a thumbnail and words", () => {
  const { model, draw, letters, at, el, square, status, radio } = open();
  assert.equal(at(), "A");
  assert.equal(square.getAttribute("aria-label"), "capital A: nothing is drawn yet");
  draw(...DOWN);
  draw(...ACROSS);
  assert.deepEqual(model.saved.map(({ drawn }) => drawn.number), [1, 2]);
  assert.deepEqual(letters(), { A: { strokes: [DOWN, ACROSS], pen: 36, picture: ink.picture([DOWN, ACROSS], 36) } });
  assert.equal(square.getAttribute("aria-label"), "capital A: drawn with 2 strokes");
  assert.equal(radio("capital A").getAttribute("aria-label"), "capital A, drawn");
  assert.equal(radio("capital B").getAttribute("aria-label"), "capital B, not drawn yet");
  assert.ok(el.querySelector(".peft-row svg path[fill-opacity='1']").getAttribute("d").includes("h1v1h-1z"));
  assert.match(status(), /^1 of 3 letters drawn/);
});

test("one pointer draws: another hand on the square, or another button, does not", () => {
  const { pointer, letters, strokes } = open();
  pointer("pointerdown", [50, 50], { button: 2 });
  pointer("pointermove", [90, 90]);
  pointer("pointerup", [90, 90]);
  assert.deepEqual(letters(), {});
  pointer("pointerdown", [50, 50]);
  pointer("pointerdown", [400, 400], { pointerId: 2 });
  pointer("pointermove", [400, 300], { pointerId: 2 });
  pointer("pointerup", [400, 300], { pointerId: 2 });
  pointer("pointermove", [60, 60]);
  pointer("pointercancel", [0, 0]);
  assert.deepEqual(strokes("A"), [[[50, 50], [60, 60]]], "and what was drawn is kept when the browser takes the pointer away");
});

test("what the browser gathered between two frames is drawn, too; what hardly moves is not", () => {
  const { pointer, strokes } = open();
  pointer("pointerdown", [100, 100]);
  const gathered = [[120, 100], [120, 102], [140, 130]].map(([x, y]) => ({ clientX: 10 + x / 2, clientY: 20 + y / 2 }));
  pointer("pointermove", [140, 130], { getCoalescedEvents: () => gathered });
  pointer("pointerup", [140, 130]);
  assert.deepEqual(strokes("A"), [[[100, 100], [120, 100], [140, 130]]]);
});

test("a tap is a dot, and a pointer that leaves the square draws along its border", () => {
  const { draw, strokes, el } = open();
  draw([200, 100]);
  draw([500, 100], [900, -50]);
  assert.deepEqual(strokes("A"), [[[200, 100]], [[500, 100], [512, 0]]]);
  assert.equal(el.querySelector(".peft-ink path").getAttribute("d"), "M200 100L200 100");
});

test("undo takes back the last stroke or a clearing, with button and key", () => {
  const { draw, button, press, strokes, letters } = open();
  draw(...DOWN);
  draw(...ACROSS);
  button("Clear").click();
  assert.deepEqual(letters(), {});
  button("Undo").click();
  assert.deepEqual(strokes("A"), [DOWN, ACROSS]);
  const event = press("z", { ctrlKey: true });
  assert.ok(event.defaultPrevented);
  assert.deepEqual(strokes("A"), [DOWN]);
  press("z", { metaKey: true });
  assert.deepEqual(letters(), {});
  press("z", { ctrlKey: true });
  assert.deepEqual(letters(), {}, "nothing is left to undo");
});

test("strokes of an earlier day are there, and are undone one by one", () => {
  const kept = { A: { strokes: [DOWN, ACROSS], pen: 60, picture: ink.picture([DOWN, ACROSS], 60) } };
  const { at, radio, button, strokes, model, el, lines } = open({ drawn: { number: 0, letters: kept } });
  assert.equal(at(), "B", "the first that is not drawn");
  assert.equal(el.querySelector("input[type=range]").value, "60");
  radio("capital A").click();
  assert.equal(lines(), 2);
  assert.deepEqual(model.saved, []);
  button("Undo").click();
  assert.deepEqual(strokes("A"), [DOWN]);
});

test("next goes to the next letter that is not drawn, then around", () => {
  const { draw, button, press, at, radio, status } = open();
  radio("capital B").click();
  draw(...DOWN);
  button("Next letter").click();
  assert.equal(at(), "a");
  draw(...DOWN);
  assert.ok(press("Enter").defaultPrevented);
  assert.equal(at(), "A");
  draw(...DOWN);
  assert.match(status(), /^All letters are drawn: run the next cell/);
  button("Next letter").click();
  assert.equal(at(), "B");
});

test("a letter that is left with the pen down keeps its stroke", () => {
  const { pointer, press, strokes, at } = open();
  pointer("pointerdown", DOWN[0]);
  pointer("pointermove", DOWN[1]);
  press("Enter");
  assert.deepEqual(strokes("A"), [DOWN.slice(0, 2)]);
  assert.equal(at(), "B");
});

test("one pen for all letters: their pictures are made anew once its width is settled", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { draw, button, el, letters, model, window } = open();
  draw(...DOWN);
  button("Next letter").click();
  draw(...ACROSS);
  const range = el.querySelector("input[type=range]");
  for (const value of [40, 60, 72]) {
    range.value = value;
    range.dispatchEvent(new window.Event("input", { bubbles: true }));
    assert.equal(el.querySelector(".peft-ink").getAttribute("stroke-width"), String(value));
    mock.timers.tick(100);
  }
  assert.equal(model.saved.length, 2);
  mock.timers.tick(400);
  assert.equal(model.saved.length, 3);
  assert.deepEqual(letters(), {
    A: { strokes: [DOWN], pen: 72, picture: ink.picture([DOWN], 72) },
    B: { strokes: [ACROSS], pen: 72, picture: ink.picture([ACROSS], 72) },
  });
  mock.timers.reset();
});

test("a letter holds as many points as Python takes, then says that it is full", () => {
  const { draw, pointer, strokes, status } = open();
  const scribble = Array.from({ length: data.most + 50 }, (_, i) => ({ clientX: 50 + 5 * (i % 2), clientY: 20 + (i % 250) }));
  pointer("pointerdown", [100, 500]);
  pointer("pointermove", [100, 500], { getCoalescedEvents: () => scribble });
  pointer("pointerup", [100, 500]);
  assert.equal(strokes("A").flat().length, data.most);
  draw(...ACROSS);
  assert.equal(strokes("A").length, 1);
  assert.match(status(), /all the ink that it can hold/);
});

test("it says whether what was drawn is kept, and when no kernel answers", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { draw, model, status, el, cleanup } = open();
  const lost = () => el.querySelector(".peft-lost").textContent;
  assert.equal(status(), "0 of 3 letters drawn. What you draw is kept with your progress.");
  draw(...DOWN);
  assert.match(status(), /is not kept yet/);
  mock.timers.tick(1000);
  model.receive("kept", { number: 1, notice: "Your progress is not being saved." });
  mock.timers.tick(2000);
  assert.equal(lost(), "");
  assert.match(status(), /not being saved/);
  draw(...ACROSS);
  mock.timers.tick(2100);
  assert.match(lost(), /kernel does not answer/);
  model.receive("kept", { number: 2, notice: "" });
  assert.equal(lost(), "");
  assert.match(status(), /is kept with your progress/);
  cleanup();
  assert.deepEqual(model.listeners, []);
  mock.timers.reset();
});

test("another view of the same letters follows", () => {
  const { model, radio, strokes } = open();
  model.receive("drawn", { number: 4, letters: { B: { strokes: [DOWN], pen: 20, picture: ink.picture([DOWN], 20) } } });
  assert.equal(radio("capital B").getAttribute("aria-label"), "capital B, drawn");
  assert.deepEqual(strokes("B"), [DOWN]);
});

test("a saved view shows what was drawn, and takes nothing", () => {
  const drawn = { number: 3, letters: { A: { strokes: [DOWN], pen: 36, picture: ink.picture([DOWN], 36) } } };
  const { draw, button, model, status, radio, lines } = open({ saved: true, drawn });
  radio("capital A").click();
  assert.equal(lines(), 1);
  draw(...ACROSS);
  button("Undo").click();
  button("Clear").click();
  assert.deepEqual(model.saved, []);
  assert.match(status(), /Saved view: run this cell to draw/);
});

test("arrows and Enter stay here, Shift+Enter and Ctrl+S reach the notebook", () => {
  const { press, radio, window } = open();
  const seen = [];
  window.document.addEventListener("keydown", ({ key }) => seen.push(key));
  press("ArrowRight", {}, radio("capital A"));
  press("Enter");
  press("z", { ctrlKey: true });
  assert.deepEqual(seen, []);
  press("Enter", { shiftKey: true });
  press("s", { ctrlKey: true });
  assert.deepEqual(seen, ["Enter", "s"]);
});

test("no fault that axe finds", async () => {
  const { window, draw } = open();
  draw(...DOWN);
  assert.deepEqual(await axeViolations(window), []);
});
