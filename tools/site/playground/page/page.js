// The page: it sets the worker going and shows what it tells.

/* global element, make */

import { bytes, json } from "./assets.js";
import { challenges } from "./challenges.js";
import { TARGETS, WORDS, inWords, knobs, linkOf, settingsOf } from "./knobs.js";
import { picture } from "./pictures.js";
import { plot } from "./plots.js";

const GHOSTS = 6; // earlier runs that the drawings show
const $ = (id) => document.getElementById(id);

const runs = []; // { settings, trained, losses, points, first, last, ms, failed, stopped, done, spectrum }
let worker, layers, asked; // the knobs that the next run to begin was asked with
let written = 0; // number of the text that was asked for last: each prompt, strength and run has its own
let misled = ""; // what is wrong with the link that led here, until a knob is moved or a run started
const current = () => runs.at(-1);
const ask = (what, rest = {}, transfer = []) => worker.postMessage({ what, ...rest }, transfer);

// ---- what the worker tells

const told = {
  loaded({ layers: count, linears }) {
    layers = Array.from({ length: count }, (_, i) => Object.entries(linears).map(([name, part]) => [i, part, name])).flat();
    for (const [layer, part, name] of layers)
      make("option", $("layer"), { textContent: `block ${layer}, ${name}`, value: `model.layers.${layer}.${part}.${name}` });
    for (const control of document.querySelectorAll("main button, main select")) control.disabled = false;
    $("layer").value = "model.layers.1.self_attn.v_proj";
    say("Ready. Start trains the model here, in this page.");
    begin();
  },

  begun({ settings, trained, opened }) {
    newRun({ asked, settings: opened ? settings : asked, trained });
    $("trained").textContent = trained.toLocaleString("en");
    $("bytes").textContent = inBytes(4 * trained);
    look();
    if (opened) say("The adapter is open: look at its text below, or train it on.");
  },

  step({ steps, loss, ms, onGraphics }) {
    current().losses.push([steps, loss]);
    current().ms.push({ ms, onGraphics });
    $("at").textContent = `${steps} of ${current().settings.steps}`;
    $("loss").textContent = loss.toFixed(3);
    const alike = current().ms.filter((one) => one.onGraphics === onGraphics);
    $("speed").textContent = `${Math.round(median(alike.map((one) => one.ms)))} ms${onGraphics ? ", on the graphics processor" : ""}`;
    soon(drawLoss);
  },

  point({ steps, task, austen }) {
    const point = { steps, task, austen };
    current().points.push(point);
    current().first ??= point;
    current().last = point;
    $("task-perplexity").textContent = task.toFixed(1);
    $("austen-perplexity").textContent = austen.toFixed(1);
    soon(drawPlane);
    look();
  },

  done() {
    current().done = true;
    going(false);
    write();
    const { first, last, settings } = current();
    say(`Done: ${WORDS[settings.task]} ${first.task.toFixed(1)} → ${last.task.toFixed(1)}, Austen ${first.austen.toFixed(1)} → ${last.austen.toFixed(1)}.`);
    listRuns();
  },

  change({ A, B, delta, spectrum }) {
    current().spectrum = spectrum;
    shown.A(A);
    shown.B(B);
    shown.delta(delta);
    const points = spectrum.map((value, i) => [i + 1, value]).filter(([, value]) => value > 1e-7 * spectrum[0]);
    const words = points.length
      ? `${points.length} values, from ${points[0][1].toPrecision(3)} to ${points.at(-1)[1].toPrecision(3)}.`
      : "ΔW is zero so far.";
    shown.spectrum([{ points, kind: "now", dots: true }], words);
    tests.judge(runs.filter(({ done }) => done));
  },

  text({ number, strength, text, tokens, ms }) {
    if (number !== written) return;
    $(strength ? "after" : "before").textContent = text;
    if (strength) $("pace").textContent = `${Math.round((1000 * tokens) / ms)} tokens a second`;
  },

  files({ files }) {
    const links = Object.entries(files).map(([name, content]) => {
      const href = URL.createObjectURL(new Blob([content]));
      return element("li", {}, element("a", { href, download: name, textContent: name }));
    });
    $("downloads").replaceChildren(...links);
    $("downloads").querySelector("a").focus();
    say("Save both files into one folder: load_adapter and PeftModel.from_pretrained read it.");
  },

  failed({ during, message }) {
    going(false);
    if (during !== "open" && message.startsWith("the loss is")) Object.assign(current(), { failed: true, done: true });
    if (message.startsWith("the graphics processor")) current().stopped = true; // its weights are older than its steps
    complain(during === "open" ? `These files cannot be opened: ${message}.` : `${message}.`);
    listRuns();
    tests.judge(runs.filter(({ done }) => done));
  },
};

// ---- what the reader does

const controls = knobs($("knobs"), () => {
  misled = "";
  $("own").hidden = controls.read().task !== "own";
  $("link").href = linkOf(controls.read());
  $("changed").hidden = !current() || same(current().asked, controls.read());
});

// A new run; `next` is what it does then.
function begin(next) {
  asked = controls.read();
  if (asked.method === "full" && asked.bits < 32) {
    complain("All weights train only in a base of 32 bits: rounded ones cannot move. Set the base to 32 bits, or train LoRA.");
    return false;
  }
  ask("begin", { settings: settled(asked), ownText: $("own-text").value, next });
  return true;
}

// As the engine takes them.
const settled = (knobs) => ({ ...knobs, targets: TARGETS[knobs.targets] });

function newRun(run) {
  if (current()?.losses.length === 0) runs.pop(); // never begun
  runs.push({ losses: [], points: [], ms: [], ...run });
  $("changed").hidden = true;
  $("at").textContent = `0 of ${run.settings.steps}`;
  for (const id of ["loss", "speed"]) $(id).textContent = "–";
  written += 1;
  for (const id of ["before", "after"]) $(id).textContent = "–";
  $("pace").textContent = "";
  $("downloads").replaceChildren();
  complain(misled);
  soon(drawLoss);
  listRuns();
}

// Code for another page, in which this one stands with the knobs as they are now.
const embedding = () =>
  `<iframe src="${$("link").href.replaceAll("&", "&amp;")}" title="${document.title}" width="100%" height="800" style="border: 0"></iframe>`;

const actions = {
  start() {
    if ($("start").textContent === "Pause") {
      ask("pause");
      going(false);
      write();
      return say("Paused.");
    }
    forgive();
    if (goesOn()) ask("go");
    else if (!begin("go")) return;
    going(true);
    say("Training.");
  },
  step() {
    forgive();
    if (goesOn()) ask("step");
    else begin("step");
  },
  reset() {
    ask("pause");
    going(false);
    if (begin()) say("A new run, from the start.");
  },
  save() {
    if (current()?.settings.method === "full")
      return complain("All weights have been trained: there is no adapter to save. Train LoRA for one.");
    ask("save");
  },
  async embed() {
    try {
      await navigator.clipboard.writeText(embedding());
      say("Copied: the code shows this page in yours, with these knobs.");
    } catch {
      say(`Copy this: ${embedding()}`); // a browser that lets no page copy
    }
  },
  write,
};
for (const [name, act] of Object.entries(actions)) $(name).addEventListener("click", act);

// Whether this run can go on: it has not come to an end, and the knobs have not moved.
function goesOn() {
  return current() && !current().done && !current().stopped && same(current().asked, controls.read());
}

$("layer").addEventListener("change", look);
$("strength").addEventListener("input", () => {
  $("strength-value").textContent = Number($("strength").value).toFixed(2);
  $("strength").setAttribute("aria-valuetext", `${$("strength").value} times the adapter`);
  write();
});

$("open").addEventListener("change", async () => {
  const files = [...$("open").files];
  $("open").value = "";
  const [config, weights] = ["adapter_config.json", "adapter_model.safetensors"].map((name) =>
    files.find((file) => file.name === name),
  );
  if (!config || !weights)
    return complain(`Choose adapter_config.json and adapter_model.safetensors together; given ${files.map(({ name }) => name).join(", ")}.`);
  ask("pause");
  going(false);
  const [text, content] = await Promise.all([config.text(), weights.arrayBuffer()]);
  asked = controls.read();
  ask("open", { settings: asked, config: text, weights: content, ownText: $("own-text").value });
});

function look() {
  if (current()) ask("inspect", { module: $("layer").value });
}

function write() {
  if (!current()?.last) return;
  written += 1;
  const prompt = { number: written, prompt: $("prompt").value, count: 80, temperature: 0.7, seed: 0 };
  ask("write", { ...prompt, strength: 0 });
  const strength = Number($("strength").value);
  if (strength) ask("write", { ...prompt, strength });
  else $("after").textContent = "With strength 0 the adapter says nothing: see above.";
}

// ---- what is shown

const shown = {
  loss: plot($("loss-plot"), { title: "Training loss", x: { name: "step", most: () => current()?.settings.steps ?? 60 }, y: { name: "nats per token" } }),
  plane: plot($("plane-plot"), {
    title: "Learning and forgetting",
    x: { name: "perplexity on the task (to the left: learnt)", log: true },
    y: { name: "on Austen (up: forgotten)", log: true },
  }),
  spectrum: plot($("spectrum-plot"), { title: "Singular values of ΔW", x: { name: "direction" }, y: { name: "size", log: true } }),
  A: picture($("matrices"), "A"),
  B: picture($("matrices"), "B"),
  delta: picture($("matrices"), "ΔW"),
};
const tests = challenges($("challenges"));

function drawLoss() {
  const series = runs.slice(-GHOSTS - 1).map((run) => ({ points: run.losses, kind: run === current() ? "now" : "ghost" }));
  const { losses } = current();
  shown.loss(series, losses.length ? `Step ${losses.length}: ${losses.at(-1)[1].toFixed(3)} nats.` : "No step yet.");
}

function drawPlane() {
  const path = (run) => run.points.map(({ task, austen }) => [task, austen]);
  const comparable = runs.filter((run) => run.settings.task === current().settings.task).slice(-GHOSTS - 1);
  const series = comparable.map((run) => ({ points: path(run), kind: run === current() ? "now" : "ghost", dots: true }));
  const { first, last } = current();
  const words = last && `Task ${first.task.toFixed(1)} to ${last.task.toFixed(1)}, Austen ${first.austen.toFixed(1)} to ${last.austen.toFixed(1)}.`;
  shown.plane(series, words ?? "Not measured yet.");
}

function listRuns() {
  const rows = runs.filter(({ last }) => last).map(({ settings, trained, losses, last, failed }) =>
    [inWords(settings), trained.toLocaleString("en"), losses.length, failed ? "ruined" : last.task.toFixed(1), failed ? "" : last.austen.toFixed(1)],
  );
  $("runs").tBodies[0].replaceChildren(
    ...rows.map((cells) => element("tr", {}, ...cells.map((textContent) => element("td", { textContent })))),
  );
  $("runs-box").hidden = !rows.length;
}

const waiting = new Set();
function soon(draw) {
  if (waiting.has(draw)) return;
  waiting.add(draw);
  requestAnimationFrame(() => {
    waiting.delete(draw);
    draw();
  });
}

function going(on) {
  $("start").textContent = on ? "Pause" : "Start";
  $("step").disabled = on;
}

function say(words) {
  $("status").textContent = words;
}

// What was wrong is seen: the reader goes on.
function forgive() {
  misled = "";
  complain("");
}

function complain(words) {
  $("problem").textContent = words;
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const median = (numbers) => numbers.toSorted((one, other) => one - other)[numbers.length >> 1];
const inBytes = (count) => (count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`);

// ---- the start

async function begins() {
  const parts = ["worker.js", "simd-fused.wasm", "simd.wasm", "weights"].map(bytes);
  const [course, script, fused, plain, weights] = await Promise.all([json("course"), ...parts]);
  worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  worker.onmessage = ({ data: { what, ...rest } }) => told[what](rest);
  worker.onerror = ({ message }) => complain(`The part that trains has stopped: ${message}.`);
  ask("load", { codes: [fused, plain], weights, ...course }, [weights]);
}

function follow() {
  try {
    controls.write(settingsOf(location.hash));
  } catch (error) {
    misled = `${error.message}.`;
    complain(misled);
  }
}
addEventListener("hashchange", follow);
follow();
// In another page's frame it leads out of it; a file on this computer cannot stand in another page.
const framed = window !== top;
if (framed) for (const link of document.querySelectorAll("header a")) link.target = "_blank";
$("embed").hidden = framed || location.protocol === "file:";
begins().catch((error) => complain(`The page could not be loaded: ${error.message}.`));
