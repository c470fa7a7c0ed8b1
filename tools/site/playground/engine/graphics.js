// Steps of training on a graphics processor, by WebGPU (W3C). Its memory is laid out as the page's: what lies at a place in
// the one lies at the same place in the other.
//
// A step does the same each time, with other tokens. So it is recorded once: the engine's own pages run, with operations that
// compute nothing and note what is to be done. A program of notes is then played at each step.

import { KERNELS, fieldsOf, shader } from "./kernels.js";

const RESULTS = 16; // bytes behind all others, for the loss and the square of the gradients' norm
const INPUTS = 1 << 16; // bytes, for tokens and whatever else is new at each step
const GIVEN = 128; // bytes, of a note's places and counts at most

export class Graphics {
  // Gives nothing where the browser has none.
  static async open(memory) {
    const adapter = await globalThis.navigator?.gpu?.requestAdapter({ powerPreference: "high-performance" });
    if (!adapter) return undefined;
    const device = await adapter.requestDevice();
    try {
      const graphics = new Graphics(device, memory);
      await graphics.compile();
      return graphics;
    } catch (error) {
      device.destroy(); // it would keep its memory
      throw error;
    }
  }

  constructor(device, memory) {
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
    const buffer = (size, usage) => device.createBuffer({ size, usage });
    const visibility = GPUShaderStage.COMPUTE;
    Object.assign(this, { device, memory, results: memory.buffer.byteLength });
    this.numbers = buffer(this.results + RESULTS, STORAGE | COPY_SRC | COPY_DST);
    this.inputs = buffer(INPUTS, STORAGE | COPY_DST);
    this.layout = device.createBindGroupLayout({
      entries: [
        { binding: 0, visibility, buffer: { type: "storage" } },
        { binding: 1, visibility, buffer: { type: "read-only-storage" } },
        { binding: 2, visibility, buffer: { type: "uniform", hasDynamicOffset: true, minBindingSize: GIVEN } },
      ],
    });
    device.lost.then(() => (this.lost = true)); // as when a computer sleeps
    device.addEventListener("uncapturederror", ({ error }) => (this.error ??= error.message));
  }

  async compile() {
    const layout = this.device.createPipelineLayout({ bindGroupLayouts: [this.layout] });
    const made = Object.entries(KERNELS).map(async ([name, kernel]) => {
      const module = this.device.createShaderModule({ code: shader(kernel) });
      return [name, await this.device.createComputePipelineAsync({ layout, compute: { module } })];
    });
    this.pipelines = Object.fromEntries(await Promise.all(made));
  }

  // The page's numbers, as they are now, for the programs that follow.
  upload() {
    this.device.queue.writeBuffer(this.numbers, 0, this.memory.buffer, 0, this.memory.used);
  }

  // Brings back what lies between two places.
  async fetch(from, to) {
    const found = await this.read(this.device.createCommandEncoder(), from, to - from);
    new Uint8Array(this.memory.buffer).set(new Uint8Array(found), from);
  }

  // Does what `encoder` holds; gives so many bytes from a place.
  async read(encoder, at, bytes) {
    const copy = this.device.createBuffer({ size: bytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    encoder.copyBufferToBuffer(this.numbers, at, copy, 0, bytes);
    this.device.queue.submit([encoder.finish()]);
    await copy.mapAsync(GPUMapMode.READ);
    const found = copy.getMappedRange().slice(0);
    copy.destroy();
    if (this.error) throw new Error(`the graphics processor says: ${this.error}`);
    return found;
  }

  // What `compute` does, as a program.
  record(compute) {
    const recorder = new Recorder(this);
    const { operations } = this.memory;
    this.memory.operations = recorder;
    try {
      compute();
    } finally {
      this.memory.operations = operations;
    }
    return new Program(this, recorder);
  }
}

class Program {
  constructor(graphics, { notes, count }) {
    const { device } = graphics;
    Object.assign(this, { graphics, notes, count });
    this.stride = Math.max(GIVEN, device.limits.minUniformBufferOffsetAlignment);
    const { UNIFORM, COPY_DST } = GPUBufferUsage;
    this.given = device.createBuffer({ size: this.stride * notes.length, usage: UNIFORM | COPY_DST });
    const all = new DataView(new ArrayBuffer(this.given.size));
    notes.forEach(({ name, values }, place) =>
      fieldsOf(KERNELS[name]).forEach(([, type], i) => {
        const at = place * this.stride + 4 * i;
        if (type === "f32") all.setFloat32(at, values[i], true);
        else all.setUint32(at, values[i], true);
      }),
    );
    device.queue.writeBuffer(this.given, 0, all.buffer);
    const buffers = [{ buffer: graphics.numbers }, { buffer: graphics.inputs }, { buffer: this.given, size: GIVEN }];
    const entries = buffers.map((resource, binding) => ({ binding, resource }));
    this.group = device.createBindGroup({ layout: graphics.layout, entries });
  }

  // Does it with these inputs, lists of numbers in the order in which it first asked for them; gives the loss and the norm.
  async run(inputs) {
    const numbers = Float32Array.from(inputs.flatMap((list) => [...list]));
    if (numbers.length !== this.count) throw new RangeError(`recorded with ${this.count} inputs, given ${numbers.length}`);
    const { device, pipelines, results } = this.graphics;
    device.queue.writeBuffer(this.graphics.inputs, 0, numbers);
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    this.notes.forEach(({ name, groups }, place) => {
      pass.setPipeline(pipelines[name]);
      pass.setBindGroup(0, this.group, [place * this.stride]);
      pass.dispatchWorkgroups(...groups);
    });
    pass.end();
    const [loss, squares] = new Float32Array(await this.graphics.read(encoder, results, RESULTS));
    return { loss, norm: Math.sqrt(squares) };
  }

  free() {
    this.given.destroy();
  }
}

const place = ({ at }) => at / 4;
const size = ({ rows, columns }) => rows * columns;

// operations.js, each function that a step needs as a note.
class Recorder {
  constructor({ results }) {
    Object.assign(this, { notes: [], inputs: new Map(), count: 0, loss: results / 4, squares: results / 4 + 1 });
  }

  note(name, values, groups) {
    if (groups.every(Boolean)) this.notes.push({ name, values, groups });
  }

  // A kernel of which each thread has a number below `count`, the field before those that are f32.
  each(name, values, count, ...fractions) {
    this.note(name, [...values, count, ...fractions], [Math.ceil(count / 64)]);
  }

  sum(name, y, x, factor = 1) {
    this.note(name, [y, place(x), size(x), factor], [1]);
  }

  // Where a list stands among the inputs.
  input(list) {
    if (!this.inputs.has(list)) {
      this.inputs.set(list, this.count);
      this.count += list.length;
      if (4 * this.count > INPUTS) throw new RangeError(`there is room for ${INPUTS / 4} inputs`);
    }
    return this.inputs.get(list);
  }

  multiply(C, A, B, add) {
    const [c, a, b] = [C, A, B].map(({ at, down, right }) => [at / 4, down, right]);
    const sizes = [C.rows, C.columns, A.columns, Number(add), C.counts[1]];
    const jumps = [C, A, B].flatMap((one) => one.jumps);
    const tiles = [C.columns, C.rows].map((count) => Math.ceil(count / 32));
    this.note("multiply", [c[0], c[1], ...a, ...b, ...sizes, ...jumps], [...tiles, C.counts[0] * C.counts[1]]);
  }

  copy(y, x) {
    if (Math.abs(y.at - x.at) < 4 * size(x)) throw new RangeError("threads cannot copy to where others still read");
    this.each("copy", [place(y), place(x)], size(x));
  }

  add(y, x) {
    this.each("add", [place(y), place(x)], size(y));
  }

  scale(x, factor) {
    this.each("scale", [place(x)], size(x), factor);
  }

  embed(x, table, ids) {
    this.each("embed", [place(x), place(table), this.input(ids), x.columns], size(x));
  }

  embedBack(table, dx, ids) {
    this.each("embedBack", [place(table), place(dx), this.input(ids), dx.columns, dx.rows], size(table));
  }

  turn(x, length, d, { cos, sin }, direction) {
    this.each("turn", [...[x, cos, sin].map(place), length, d, x.columns], size(x) / 2, direction);
  }

  rmsNorm(y, s, x, gain, epsilon) {
    this.each("rmsNorm", [...[y, s, x, gain].map(place), x.columns], x.rows, epsilon);
  }

  rmsNormBack(dx, dy, x, gain, s) {
    this.each("rmsNormBack", [...[dx, dy, x, gain, s].map(place), x.columns], x.rows);
  }

  gainBack(dg, dy, x, s) {
    this.each("gainBack", [...[dg, dy, x, s].map(place), x.rows], x.columns);
  }

  softmax(P, factor, causal) {
    this.each("softmax", [place(P), P.columns, Number(causal)], P.rows, factor);
  }

  softmaxBack(dP, P, factor) {
    this.each("softmaxBack", [place(dP), place(P), P.columns], P.rows, factor);
  }

  swiglu(...matrices) {
    this.each("swiglu", matrices.map(place), size(matrices[0]));
  }

  swigluBack(...matrices) {
    this.each("swigluBack", matrices.map(place), size(matrices[0]));
  }

  crossEntropy(z, wanted) {
    const losses = z.memory.matrix(z.rows, 1);
    this.each("crossEntropy", [place(z), place(losses), this.input(wanted), z.columns], z.rows);
    this.sum("total", this.loss, losses, 1 / z.rows);
  }

  clip(gradients, longest) {
    const { memory } = gradients[0];
    memory.release(() => {
      const each = memory.matrix(1, gradients.length);
      gradients.forEach((gradient, i) => this.sum("squares", place(each) + i, gradient));
      this.sum("total", this.squares, each);
    });
    for (const gradient of gradients) this.each("clip", [place(gradient), this.squares], size(gradient), longest);
  }

  adamw(theta, g, m, v, sizes, { beta1, beta2, epsilon }) {
    const places = [theta, g, m, v].map(place);
    this.each("adamw", [...places, this.input(sizes), this.squares], size(theta), beta1, beta2, 1 - beta1, 1 - beta2, epsilon);
  }
}
