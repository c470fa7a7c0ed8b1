// Training as peft_lessons.train does it, a step at a time: gradients are cut to a norm, and AdamW follows the schedule.

import { AdamW, rateFactor } from "./adamw.js";

export class Training {
  // `settings` have { rate, steps }, `parameters` are what trains. A class that extends this one has `loss`, which gives the
  // loss of the next batch and leaves the gradients.
  constructor(settings, parameters) {
    Object.assign(this, { settings, parameters });
    this.trained = parameters.reduce((total, { value }) => total + value.values.length, 0);
    this.optimizer = new AdamW(parameters);
  }

  get steps() {
    return this.optimizer.steps;
  }

  get done() {
    return this.steps >= this.settings.steps;
  }

  // What the optimizer needs of the next step, kept for who repeats it.
  nextSizes() {
    return (this.sizes = this.optimizer.sizes(this.settings.rate * rateFactor(this.steps, this.settings.steps)));
  }

  // Makes one step; gives the loss before it.
  step() {
    const loss = this.loss();
    this.check(loss, this.optimizer.clip());
    this.optimizer.update(this.nextSizes());
    return loss;
  }

  // Keeps both, for who repeats the step; the norm is that of the gradients before they were cut.
  check(loss, norm, step = this.steps) {
    if (!Number.isFinite(loss) || !Number.isFinite(norm))
      throw new Error(`the loss is ${loss} at step ${step}: try a lower learning rate`);
    this.last = { loss, norm };
  }
}
