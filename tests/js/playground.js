// Does what the playground's worker does, a list of jobs, and prints what came out; run by tests/test_playground.py.

import { readFileSync, writeFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { rateFactor } from "../../tools/site/playground/engine/adamw.js";
import { readAdapter } from "../../tools/site/playground/engine/adapter_files.js";
import { decoder } from "../../tools/site/playground/engine/decoder.js";
import { generate } from "../../tools/site/playground/engine/generate.js";
import { Memory, times } from "../../tools/site/playground/engine/memory.js";
import { exponential } from "../../tools/site/playground/engine/operations.js";
import { fakeQuantize } from "../../tools/site/playground/engine/quantize.js";
import { Random } from "../../tools/site/playground/engine/random.js";
import { Run } from "../../tools/site/playground/engine/run.js";
import { readSafetensors } from "../../tools/site/playground/engine/safetensors.js";
import { spectrum } from "../../tools/site/playground/engine/spectrum.js";
import { CHALLENGES } from "../../tools/site/playground/page/challenges.js";
import { TARGETS } from "../../tools/site/playground/page/knobs.js";
import { Tokenizer } from "../../tools/site/playground/vendor/tokenizers.js";
import { multiplyAdds } from "./products.js";

setFlagsFromString("--experimental-wasm-relaxed-simd"); // so that node runs simd-fused.wasm, as browsers do
const { jobs, config, levels, vocabulary, weights, codes } = JSON.parse(readFileSync(process.env.WIDGET_DATA, "utf8"));
const bytesOf = (path) => new Uint8Array(readFileSync(path)).buffer;
const memory = await Memory.open(codes.map((path) => readFileSync(path)));
const base = { config, levels, tensors: readSafetensors(bytesOf(weights)) };
const tokenizer = new Tokenizer(vocabulary, { clean_up_tokenization_spaces: false });

const logits = ({ model }, ids) => {
  const [h] = decoder(model, ids, ids.length, false);
  return [...times(h, model.embedding.value.T).values];
};

const DOES = {
  train({ settings, ids, heldOut, prompt, count, module, folder }) {
    memory.clear();
    const run = new Run(memory, base, settings, Uint16Array.from(ids));
    const start = run.parameters.slice(0, 2).map(({ value }) => [...value.values]);
    const losses = [];
    const work = multiplyAdds(memory, () => {
      while (!run.done) losses.push(run.step());
    });
    if (folder)
      for (const [name, content] of Object.entries(run.files())) writeFileSync(`${folder}/${name}`, content);
    return {
      start,
      losses,
      work,
      trained: run.trained,
      perplexity: run.perplexity(Uint16Array.from(heldOut)),
      logits: logits(run, prompt),
      greedy: [...generate(run.weightsAt(1), config, prompt, { count })],
      base: [...generate(run.weightsAt(0), config, prompt, { count })],
      spectrum: [...run.change(module).spectrum],
    };
  },

  // What each challenge says of a finished run with these knobs: its number among the guesses and words, or nothing.
  challenge({ knobs, ids, task, austen, module }) {
    memory.clear();
    const run = new Run(memory, base, { ...knobs, targets: TARGETS[knobs.targets] }, Uint16Array.from(ids));
    const point = () => ({ task: run.perplexity(Uint16Array.from(task)), austen: run.perplexity(Uint16Array.from(austen)) });
    const first = point();
    while (!run.done) run.step();
    const done = { settings: knobs, trained: run.trained, first, last: point(), spectrum: run.change(module).spectrum };
    return CHALLENGES.map(({ title, verdict }) => [title, verdict([done]) ?? null]);
  },

  // Files that cannot be opened give the message that they get.
  open({ folder, prompt, seed }) {
    memory.clear();
    try {
      const text = readFileSync(`${folder}/adapter_config.json`, "utf8");
      const { settings, tensors } = readAdapter(text, bytesOf(`${folder}/adapter_model.safetensors`), base.tensors);
      const run = new Run(memory, base, { ...settings, seed, bits: 32, steps: 1, rate: 0.01 }, new Uint16Array(64));
      run.fill(tensors);
      return { settings, logits: logits(run, prompt) };
    } catch (error) {
      return { message: error.message };
    }
  },

  quantize({ values, bits, blockSize }) {
    const rounded = Float32Array.from(values);
    fakeQuantize(rounded, levels[bits], blockSize);
    return [...rounded];
  },

  draw({ seed, count, below }) {
    const [numbers, uniform] = [new Random(seed), new Float32Array(count)];
    new Random(seed).fillUniform(uniform, 0.3);
    return { below: Array.from({ length: count }, () => numbers.below(below)), uniform: [...uniform] };
  },

  product({ a, b, rows, inner, columns }) {
    memory.clear();
    const [A, B] = [memory.matrix(rows, inner), memory.matrix(inner, columns)];
    A.values.set(a);
    B.values.set(b);
    const [plain, fromRight] = [times(A, B), times(B.T, A.T)];
    return { plain: [...plain.values], transposed: [...fromRight.values] };
  },

  // Those of the first of two rows, and what lies behind them.
  powers({ values, factor }) {
    memory.clear();
    const rows = memory.matrix(2, values.length);
    rows.values.fill(7).set(values);
    exponential(rows, rows, { factor, row: 0 });
    return { powers: [...rows.values.subarray(0, values.length)], behind: rows.values[values.length] };
  },

  spectrum: ({ rows, columns, values }) => spectrum({ rows, columns, values: Float32Array.from(values) }),
  rates: ({ steps }) => Array.from({ length: steps }, (_, step) => rateFactor(step, steps)),
  tokens: ({ texts }) =>
    texts.map((text) => {
      const { ids } = tokenizer.encode(text, { add_special_tokens: false });
      return { ids, text: tokenizer.decode(ids, { skip_special_tokens: true }) };
    }),
};

console.log(JSON.stringify(jobs.map(({ what, ...rest }) => DOES[what](rest))));
