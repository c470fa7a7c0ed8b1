// One run of training: peft_lessons.train on peft_lessons.training.windows, from the same start, a step at a time.

import { fillAdapter, writeAdapter } from "./adapter_files.js";
import { weightsAt } from "./generate.js";
import { delta } from "./linear.js";
import { heldOutLoss, nextTokenLoss } from "./loss.js";
import { buildModel, fullFineTuning, injectLora, quantizeBase } from "./model.js";
import { randomWindows } from "./random.js";
import { loraSpectrum, spectrum } from "./spectrum.js";
import { Training } from "./training.js";

export const TEXTS = 8; // windows in a step
export const LENGTH = 64; // tokens in each

export class Run extends Training {
  // `base` is { config, tensors, levels }: the model's config, its tensors, and of each number of bits the levels.
  // `settings` are { method, rank, alpha, targets, rate, bits, steps, seed }; `ids` the text to learn from.
  constructor(memory, base, settings, ids) {
    const model = buildModel(memory, base.config, base.tensors);
    if (settings.bits < 32) quantizeBase(model, base.levels[settings.bits]);
    super(settings, settings.method === "full" ? fullFineTuning(model) : injectLora(model, settings));
    Object.assign(this, { base, model });
    this.batches = randomWindows(ids, TEXTS, LENGTH, settings.seed);
  }

  // Kept for who repeats the step.
  nextWindows() {
    return (this.windows = this.batches.next().value);
  }

  loss() {
    return nextTokenLoss(this.model, this.nextWindows(), LENGTH);
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
    const layer = this.model.linears.find((one) => one.module === module);
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
    return writeAdapter(this.model, this.settings, "CAUSAL_LM");
  }

  fill(tensors) {
    fillAdapter(this.model, tensors);
  }
}
