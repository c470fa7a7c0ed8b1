// Learns a hand beside the page, which stays free to answer. A message is { what, … }; whatever goes wrong comes back as
// `failed`.

import { breath } from "./breath.js";
import { DrawingRun } from "./engine/drawing_run.js";
import { Memory } from "./engine/memory.js";
import { Random } from "./engine/random.js";
import { readSafetensors } from "./engine/safetensors.js";

const MEGABYTES = 88; // what a step of 16 pictures takes
const TOGETHER = 13; // letters, drawn in less than a second
const BETWEEN = 2000; // ms of training before so many letters are drawn anew
const QUICK = 8; // Euler steps, while it trains
const START = { rank: 8, alpha: 16, seed: 0 };

let memory, base, noise, run;
let strength = 1;
let going = false;
let newest; // what draws the alphabet; another may have been asked for since

const tell = (what, rest = {}) => postMessage({ what, ...rest });

const answers = {
  async load({ codes, weights, config }) {
    memory = await Memory.open(codes, MEGABYTES);
    base = { config, tensors: readSafetensors(weights) };
    noise = new Random(0).normal(config.num_labels * config.image_size ** 2); // the same always: what differs was learnt
    run = new DrawingRun(memory, base, START, [], []);
    tell("loaded");
    await alphabet(QUICK);
  },

  async train({ settings, pictures, labels }) {
    newest = undefined;
    memory.clear();
    run = new DrawingRun(memory, base, { ...START, ...settings }, pictures, labels);
    tell("begun", { trained: run.trained });
    going = true;
    let [drawn, first] = [performance.now(), 0];
    while (going && !run.done) {
      const loss = run.step();
      tell("step", { steps: run.steps, loss });
      if (performance.now() - drawn > BETWEEN) {
        letters(first, QUICK);
        first = (first + TOGETHER) % base.config.num_labels;
        drawn = performance.now();
      }
      await breath();
    }
    going = false;
    tell("done", { steps: run.steps });
    await alphabet(20);
  },

  stop() {
    going = false;
  },

  // While it trains, what is drawn next is drawn so.
  async draw({ strength: given, steps }) {
    strength = given;
    if (!going) await alphabet(steps);
  },

  save() {
    tell("files", { files: run.files() });
  },
};

async function alphabet(steps) {
  const mine = (newest = {});
  for (let first = 0; first < base.config.num_labels; first += TOGETHER) {
    await breath();
    if (newest !== mine) return;
    letters(first, steps);
  }
  tell("drawn", { strength, trained: run.steps > 0 });
}

function letters(first, steps) {
  const labels = Array.from({ length: Math.min(TOGETHER, base.config.num_labels - first) }, (_, i) => first + i);
  const pixels = base.config.image_size ** 2;
  const some = noise.subarray(first * pixels, (first + labels.length) * pixels);
  tell("letters", { first, pictures: run.draw(labels, some, { strength, steps }) });
}

onmessage = async ({ data: { what, ...rest } }) => {
  try {
    await answers[what](rest);
  } catch (error) {
    going = false;
    tell("failed", { message: error.message });
  }
};
