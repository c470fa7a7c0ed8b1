// One run of training: peft_lessons.train on peft_lessons.training.windows, from the same start, a step at a time.

import { AdamW, clip, rateFactor } from "./adamw.js";
import { fillAdapter, writeAdapter } from "./adapter_files.js";
import { weightsAt } from "./generate.js";
import { delta } from "./linear.js";
import { heldOutLoss, nextTokenLoss } from "./loss.js";
import { buildModel, fullFineTuning, injectLora, linearLayers, quantizeBase } from "./model.js";
import { randomWindows } from "./random.js";
import { loraSpectrum, spectrum } from "./spectrum.js";

export const TEXTS = 8; // windows in a step
export const LENGTH = 64; // tokens in each

export class Run {
  // `base` is { config, tensors, levels }: the model's config, its tensors, and of each number of bits the levels.
  // `settings` are { method, rank, alpha, targets, rate, bits, steps, seed }; `ids` the text to learn from.
  constructor(memory, base, settings, ids) {
    Object.assign(this, { base, settings });
    this.model = buildModel(memory, base.config, base.tensors);
    if (settings.bits < 32) quantizeBase(this.model, base.levels[settings.bits]);
    this.parameters = settings.method === "full" ? fullFineTuning(this.model) : injectLora(this.model, settings);
    this.trained = this.parameters.reduce((total, { value }) => total + value.values.length, 0);
    this.optimizer = new AdamW(this.parameters);
    this.batches = randomWindows(ids, TEXTS, LENGTH, settings.seed);
  }

  get steps() {
    return this.optimizer.steps;
  }

  get done() {
    return this.steps >= this.settings.steps;
  }

  // Makes one step; gives the loss before it.
  step() {
    const loss = nextTokenLoss(this.model, this.batches.next().value, LENGTH);
    const norm = clip(this.parameters);
    if (!Number.isFinite(loss) || !Number.isFinite(norm))
      throw new Error(`the loss is ${loss} at step ${this.steps}: try a lower learning rate`);
    this.optimizer.step(this.settings.rate * rateFactor(this.steps, this.settings.steps));
    return loss;
  }

  perplexity(ids) {
    const whole = ids.subarray(0, ids.length - (ids.length % LENGTH));
    return Math.exp(heldOutLoss(this.model, whole, LENGTH));
  }

  weightsAt(strength) {
    return weightsAt(this.model, strength, (name) => this.base.tensors.get(name).values);
  }

  // What training has changed in one linear layer: A and B if it has them, ΔW, and its singular values.
  change(module) {
    const layer = linearLayers(this.model).find((one) => one.module === module);
    const picture = ({ rows, columns, values }) => ({ rows, columns, values: values.slice() });
    if (layer.A)
      return this.model.memory.release(() => ({
        A: picture(layer.A.value),
        B: picture(layer.B.value),
        delta: picture(delta(layer)),
        spectrum: loraSpectrum(layer),
      }));
    const now = picture(layer.W.value);
    const before = this.base.tensors.get(layer.W.name).values;
    now.values.forEach((value, i) => (now.values[i] = layer.W.gradient ? value - before[i] : 0));
    return { delta: now, spectrum: spectrum(now) };
  }

  files() {
    return writeAdapter(this.model, this.settings);
  }

  fill(tensors) {
    fillAdapter(this.model, tensors);
  }
}
