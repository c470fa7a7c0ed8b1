// A run on whichever processor is faster here. Both make two of the first steps: the graphics processor goes on with the
// next ones if it gives the same losses and norms, and keeps the run if it takes less time.

import { nextTokenLoss, pairs } from "./loss.js";
import { LENGTH } from "./run.js";

const ALONE = 2; // steps before that, which warm up
const BOTH = 2; // steps on both: what the second gives depends on what the first has changed
const TRIED = 2; // steps of the graphics processor, of which the best is compared
const NEAR = 1e-4; // relative; in fp32, sums in another order differ by some 1e-6

export class Fastest {
  // `find()` gives what graphics.js opens, once it is open, or nothing.
  constructor(run, find) {
    Object.assign(this, { run, find, made: [], program: undefined, alone: Infinity, ms: [], ahead: false });
    this.end = run.model.memory.used;
  }

  get onGraphics() {
    return Boolean(this.program);
  }

  // As run.step().
  async step() {
    if (this.program?.graphics.lost && !this.ahead) this.leave(); // all is here: a computer that slept goes on without
    if (this.program) return this.graphicsStep();
    const { run, made } = this;
    const graphics = run.steps >= ALONE && made.length < BOTH && this.find();
    if (graphics && !made.length) graphics.upload(); // as all stands before these steps
    const start = performance.now();
    const loss = run.step();
    this.alone = Math.min(this.alone, performance.now() - start);
    if (graphics) made.push({ inputs: [...pairs(run.windows, LENGTH), run.sizes], ...run.last });
    if (graphics && made.length === BOTH) await this.compare(graphics);
    return loss;
  }

  // The steps just made, once more. Whatever goes wrong, the run goes on without.
  async compare(graphics) {
    const { run } = this;
    try {
      this.program = graphics.record(() => {
        nextTokenLoss(run.model, run.windows, LENGTH);
        run.optimizer.clip();
        run.optimizer.update(run.sizes);
      });
      for (const step of this.made) {
        const found = await this.program.run(step.inputs);
        const near = (name) => Math.abs(found[name] - step[name]) <= NEAR * step[name];
        if (!near("loss") || !near("norm")) return this.leave();
      }
    } catch {
      this.leave();
    }
  }

  async graphicsStep() {
    const { run, program, ms } = this;
    const step = run.steps;
    const start = performance.now();
    const inputs = [...pairs(run.nextWindows(), LENGTH), run.nextSizes()];
    const { loss, norm } = await this.orLeave(program.run(inputs));
    this.ahead = true;
    ms.push(performance.now() - start);
    run.check(loss, norm, step);
    if (ms.length === TRIED && Math.min(...ms) > this.alone) {
      await this.settle();
      this.leave();
    }
    return loss;
  }

  // Brings back what was trained elsewhere, for whatever reads it.
  async settle() {
    if (!this.ahead) return;
    const first = Math.min(...this.run.parameters.map(({ value }) => value.at));
    await this.orLeave(this.program.graphics.fetch(first, this.end));
    this.ahead = false;
  }

  // What the graphics processor promises, or an error that says what it means for the run.
  orLeave(promise) {
    return promise.catch(({ message }) => {
      this.leave();
      throw new Error(`the graphics processor has stopped, and what it learnt last is lost (${message}): begin a new run`);
    });
  }

  leave() {
    this.program?.free();
    Object.assign(this, { program: undefined, ahead: false });
  }
}
