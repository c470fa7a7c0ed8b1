// The page: letters of a hand or of a typeface go to the worker, and what it draws is shown.

/* global element, make, segments, render */

import { bytes, json } from "./assets.js";
import { SIZE, compose, fromDigits, paint, set } from "./letters.js";
import { kept } from "./kept.js";

const FEWEST = 10; // letters
const SHEET = { across: 13, scale: 3, margin: 24 }; // of the picture to take along, in its pixels
const $ = (id) => document.getElementById(id);

let worker, course, source, hand, began;
const seen = new Set(); // letters that the model on show has learnt from
const pictures = {}; // by letter, as the model draws it now
const canvases = {};
const ask = (what, rest = {}, transfer = []) => worker.postMessage({ what, ...rest }, transfer);

// ---- what the worker tells

const told = {
  loaded() {
    for (const id of ["train", "strength", "picture"]) $(id).disabled = false;
    say("Ready.");
    offered();
  },

  begun({ trained }) {
    $("trained").textContent = trained.toLocaleString("en");
  },

  step({ steps, loss }) {
    const left = ((performance.now() - began) / steps) * (course.settings.steps - steps);
    $("progress").value = steps / course.settings.steps;
    $("loss").textContent = loss.toFixed(3);
    $("left").textContent = `${Math.ceil(left / 1000)} s`;
    $("at").textContent = `${steps} of ${course.settings.steps}`;
  },

  letters({ first, pictures: drawn }) {
    const pixels = SIZE * SIZE;
    for (let i = 0; i * pixels < drawn.length; i++) {
      const letter = course.letters[first + i];
      pictures[letter] = drawn.subarray(i * pixels, (i + 1) * pixels);
      paint(canvases[letter], pictures[letter]);
    }
    write();
  },

  done({ steps }) {
    going(false);
    $("left").textContent = "0 s";
    const seconds = Math.round((performance.now() - began) / 1000);
    say(`${steps} steps in ${seconds} s. Now it draws all letters with care.`);
    $("save").disabled = false;
  },

  drawn({ strength, trained }) {
    if (trained) say(`Done: it has learnt from ${seen.size} letters and drawn all ${course.letters.length}.`);
    $("alphabet").setAttribute("aria-label", `All 52 letters at strength ${strength.toFixed(2)}; learnt from ${[...seen].join(" ") || "none yet"}`);
  },

  files({ files }) {
    links(Object.entries(files).map(([name, content]) => [name, new Blob([content])]));
    say("Save both files into one folder: load_adapter and PeftModel.from_pretrained read it.");
  },

  failed({ message }) {
    going(false);
    complain(`${message}.`);
  },
};

// ---- the letters to learn from

// { letter: digits } of what is chosen.
function chosen() {
  if (source === "typeface") return course.typefaces[$("typeface").value].letters;
  const drawn = Object.entries(hand.get("drawn").letters);
  return Object.fromEntries(drawn.map(([letter, { picture }]) => [letter, picture]));
}

function offered() {
  const count = Object.keys(chosen()).length;
  $("enough").textContent =
    count < FEWEST ? `${count} of at least ${FEWEST} letters drawn. More are better, up to ${course.trained.length}.` : `${count} letters to learn from.`;
  $("train").setAttribute("aria-disabled", String(count < FEWEST));
}

function choose(one) {
  source = one;
  $("hand").hidden = source !== "hand";
  $("typefaces").hidden = source !== "typeface";
  const letters = Object.entries(source === "typeface" ? chosen() : {});
  $("samples").replaceChildren(
    ...letters.map(([letter, digits]) => {
      const canvas = element("canvas");
      paint(canvas, fromDigits(digits));
      return element("span", {}, canvas);
    }),
  );
  $("samples").setAttribute("aria-label", `Its letters ${letters.map(([letter]) => letter).join(" ")}`);
  offered();
}

// ---- what the reader does

const actions = {
  train() {
    if ($("train").textContent === "Stop") return ask("stop");
    const letters = Object.entries(chosen());
    if (letters.length < FEWEST) return complain(`It takes ${FEWEST} letters at least, and ${letters.length} are drawn: draw some more, or choose a typeface.`);
    complain("");
    show(letters.map(([letter]) => letter));
    began = performance.now();
    going(true);
    say("Training: the alphabet below changes as it learns.");
    ask("train", {
      settings: course.settings,
      pictures: letters.map(([, digits]) => fromDigits(digits)),
      labels: letters.map(([letter]) => course.letters.indexOf(letter)),
    });
  },

  save() {
    ask("save");
  },

  async picture() {
    const canvas = sheet();
    links([["alphabet.png", await new Promise((resolve) => canvas.toBlob(resolve))]]);
  },
};
for (const [name, act] of Object.entries(actions)) $(name).addEventListener("click", act);

for (const [event, steps] of [["input", 8], ["change", 20]])
  $("strength").addEventListener(event, () => {
    const strength = Number($("strength").value);
    $("strength-value").textContent = strength.toFixed(2);
    ask("draw", { strength, steps });
  });
$("sentence").addEventListener("input", write);
addEventListener("resize", write);

// ---- what is shown

// The frames of the alphabet, those of the letters `learnt` marked.
function show(learnt) {
  seen.clear();
  learnt.forEach((letter) => seen.add(letter));
  for (const [letter, canvas] of Object.entries(canvases)) canvas.parentElement.className = seen.has(letter) ? "seen" : "";
  $("save").disabled = true;
  $("downloads").replaceChildren();
}

function write() {
  const canvas = $("line");
  const scale = 2; // pixels of the page for one of a letter
  const width = Math.floor(canvas.parentElement.clientWidth / scale);
  const text = $("sentence").value;
  const composed = compose(text, pictures, width);
  Object.assign(canvas, { width: width * scale, height: composed.height * scale });
  set(canvas.getContext("2d"), composed, canvases, { scale });
  canvas.setAttribute("aria-label", `In the model’s letters: ${text}`);
  const strangers = [...new Set(text.replace(/\s/g, ""))].filter((letter) => !course.letters.includes(letter));
  $("strangers").textContent = strangers.length ? `It draws A–Z and a–z, and leaves out ${strangers.join(" ")}` : "";
}

// The alphabet, and the sentence below it, black on white.
function sheet() {
  const { across, scale, margin } = SHEET;
  const cell = SIZE * scale;
  const composed = compose($("sentence").value, pictures, across * SIZE);
  const rows = Math.ceil(course.letters.length / across);
  const canvas = element("canvas", { width: across * cell + 2 * margin, height: rows * cell + composed.height * scale + 3 * margin });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  [...course.letters].forEach((letter, i) => {
    const [x, y] = [i % across, Math.floor(i / across)];
    context.drawImage(canvases[letter], margin + x * cell, margin + y * cell, cell, cell);
  });
  set(context, composed, canvases, { left: margin, top: rows * cell + 2 * margin, scale });
  return canvas;
}

function links(files) {
  const made = files.map(([name, content]) => {
    const href = URL.createObjectURL(content);
    return element("li", {}, element("a", { href, download: name, textContent: name }));
  });
  $("downloads").replaceChildren(...made);
  $("downloads").querySelector("a").focus();
}

function going(on) {
  $("train").textContent = on ? "Stop" : "Train";
  $("progress").hidden = false;
}

const say = (words) => ($("status").textContent = words);
const complain = (words) => ($("problem").textContent = words);

// ---- the start

async function begins() {
  course = await json("course");
  for (const letter of course.letters) canvases[letter] = make("canvas", make("span", $("alphabet")), { width: SIZE, height: SIZE });
  course.typefaces.forEach(({ name, kind }, i) => make("option", $("typeface"), { value: i, textContent: `${name} (${kind})` }));
  $("typeface").addEventListener("change", () => choose(source));
  hand = kept(course.trained, offered);
  render({ model: hand, el: $("hand") });
  const sources = ["hand", "typeface"];
  const switched = segments($("source"), "source", "Where the letters come from", ["My own hand", "A typeface"], (at) => choose(sources[at]));
  switched.show(0);
  choose("hand");

  const [script, fused, plain, weights] = await Promise.all(["worker.js", "simd-fused.wasm", "simd.wasm", "weights"].map(bytes));
  worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  worker.onmessage = ({ data: { what, ...rest } }) => told[what](rest);
  worker.onerror = ({ message }) => complain(`The part that trains has stopped: ${message}.`);
  ask("load", { codes: [fused, plain], weights, config: course.config }, [weights]);
}

begins().catch((error) => complain(`The page could not be loaded: ${error.message}.`));
