// Does what the drawing page's worker does, a list of jobs, and prints what came out; run by tests/test_drawing_page.py.

import { readFileSync, writeFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { velocities } from "../../tools/site/playground/engine/diffusion.js";
import { DrawingRun } from "../../tools/site/playground/engine/drawing_run.js";
import { flowLoss } from "../../tools/site/playground/engine/flow.js";
import { Memory } from "../../tools/site/playground/engine/memory.js";
import { Random } from "../../tools/site/playground/engine/random.js";
import { readSafetensors } from "../../tools/site/playground/engine/safetensors.js";
import { multiplyAdds } from "./products.js";

setFlagsFromString("--experimental-wasm-relaxed-simd"); // so that node runs simd-fused.wasm, as browsers do
const { jobs, config, weights, codes, pictures, labels, megabytes } = JSON.parse(readFileSync(process.env.WIDGET_DATA, "utf8"));
const memory = await Memory.open(codes.map((path) => readFileSync(path)), megabytes);
const PIXELS = config.image_size ** 2;
const base = { config, tensors: readSafetensors(new Uint8Array(readFileSync(weights)).buffer) };

function begin(settings) {
  memory.clear();
  const letters = pictures.map((picture) => Float32Array.from(picture));
  return new DrawingRun(memory, base, settings, letters, labels);
}

const DOES = {
  velocities({ settings, images, times, labels }) {
    const { model } = begin(settings);
    const x = memory.matrix(labels.length, images.length / labels.length);
    x.values.set(images);
    return [...velocities(model, x, times, labels, false)[0].values];
  },

  // Of a batch: its loss, and the gradient of each A and B, which are set to what is given.
  gradients({ settings, values, batch }) {
    const run = begin(settings);
    run.parameters.forEach(({ value }, i) => value.values.set(values[i]));
    const loss = flowLoss(run.model, batch);
    return { loss, gradients: run.parameters.map(({ gradient }) => [...gradient.values]) };
  },

  batches({ settings, count }) {
    const { batches } = begin(settings);
    return Array.from({ length: count }, () => {
      const { images, labels, noise, times } = batches.next().value;
      return { images: [...images], labels, noise: [...noise], times: [...times] };
    });
  },

  train({ settings, folder, asked, steps, strengths }) {
    const run = begin(settings);
    const start = run.parameters.map(({ value }) => [...value.values]);
    const losses = [];
    const work = multiplyAdds(memory, () => {
      while (!run.done) losses.push(run.step());
    });
    if (folder)
      for (const [name, content] of Object.entries(run.files())) writeFileSync(`${folder}/${name}`, content);
    const noise = new Random(0).normal(asked.length * PIXELS);
    const some = (first) => [asked.slice(first, first + 3), noise.slice(first * PIXELS, (first + 3) * PIXELS)];
    const drawings = strengths.map((strength) =>
      asked.flatMap((_, i) => (i % 3 ? [] : [...run.draw(...some(i), { strength, steps })])),
    );
    return { start, losses, work, drawings, trained: run.trained };
  },
};

console.log(JSON.stringify(jobs.map(({ what, ...rest }) => DOES[what](rest))));
