// A run on whichever processor is faster here. Both make one of the first steps: the graphics processor goes on with the
// next ones if it gives the same loss and norm, and keeps the run if it takes less time.

import { nextTokenLoss, pairs } from "./loss.js";
import { LENGTH } from "./run.js";

const ALONE = 2; // steps before that, which warm up
const TRIED = 2; // steps of the graphics processor, of which the best is compared
const NEAR = 1e-4; // relative; in fp32, sums in another order differ by some 1e-6

export class Fastest {
  // `find()` gives what graphics.js opens, once it is open, or nothing.
  constructor(run, find) {
    Object.assign(this, { run, find, tried: false, program: undefined, ms: [], ahead: false });
    this.end = run.model.memory.used;
  }

  get onGraphics() {
    return Boolean(this.program);
  }

  // As run.step().
  async step() {
    if (this.program) return this.graphicsStep();
    const { run } = this;
    const graphics = run.steps >= ALONE && !this.tried && this.find();
    if (graphics) graphics.upload(); // as all stands before the step
    const start = performance.now();
    const loss = run.step();
    this.alone = Math.min(this.alone ?? Infinity, performance.now() - start);
    if (graphics) await this.compare(graphics);
    return loss;
  }

  // The step just made, once more. Whatever goes wrong, the run goes on without.
  async compare(graphics) {
    const { run } = this;
    this.tried = true;
    try {
      this.program = graphics.record(() => {
        nextTokenLoss(run.model, run.windows, LENGTH);
        run.optimizer.clip();
        run.optimizer.update(run.sizes);
      });
      const found = await this.program.run([...pairs(run.windows, LENGTH), run.sizes]);
      const near = (name) => Math.abs(found[name] - run.last[name]) <= NEAR * run.last[name];
      if (!near("loss") || !near("norm")) this.leave();
    } catch {
      this.leave();
    }
  }

  async graphicsStep() {
    const { run, program, ms } = this;
    const start = performance.now();
    const windows = run.nextWindows();
    const found = await program.run([...pairs(windows, LENGTH), run.nextSizes()]).catch(({ message }) => {
      this.leave();
      throw new Error(`the graphics processor has stopped, and what it learnt last is lost: ${message}`);
    });
    this.ahead = true;
    ms.push(performance.now() - start);
    run.check(found.loss, found.norm);
    if (ms.length === TRIED && Math.min(...ms) > this.alone) {
      await this.settle();
      this.leave();
    }
    return found.loss;
  }

  // Brings back what was trained elsewhere, for whatever reads it.
  async settle() {
    if (!this.ahead) return;
    const first = Math.min(...this.run.parameters.map(({ value }) => value.at));
    await this.program.graphics.fetch(first, this.end);
    this.ahead = false;
  }

  leave() {
    this.program?.free();
    Object.assign(this, { program: undefined, ahead: false });
  }
}
