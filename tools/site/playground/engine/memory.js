// Matrices in one WebAssembly memory, where simd.ts finds them, and their products.
//
// Room is given out one piece behind the other and taken back all at once: what a step has computed is gone after it.

import * as operations from "./operations.js";

const PANEL = 8 * 4 * 2048 + 64; // bytes for eight columns of as many rows as any product here sums over

export class Memory {
  // With the first of `codes` that this browser understands. LoRA of rank 64 takes 54 megabytes.
  static async open(codes, megabytes = 60) {
    const memory = new WebAssembly.Memory({ initial: megabytes * 16 });
    const code = codes.find((one) => WebAssembly.validate(one));
    if (!code) throw new Error("this browser has no SIMD in WebAssembly: try a newer one");
    const { instance } = await WebAssembly.instantiate(code, { env: { memory, abort: () => {} } });
    return new Memory(memory.buffer, instance.exports);
  }

  constructor(buffer, simd) {
    Object.assign(this, { buffer, simd, operations, used: PANEL });
  }

  // A new matrix, whose numbers are whatever lay there.
  matrix(rows, columns) {
    const at = this.used;
    this.used += 16 * Math.ceil((4 * rows * columns) / 16);
    if (this.used > this.buffer.byteLength) throw new RangeError("this needs more memory than the page has set aside");
    return new Matrix(this, at, rows, columns, columns, 1);
  }

  zeros(rows, columns) {
    const matrix = this.matrix(rows, columns);
    matrix.values.fill(0);
    return matrix;
  }

  clear() {
    this.used = PANEL;
  }

  // Takes back all that `compute` has made, but for the matrix that it returns.
  keep(compute) {
    const before = this.used;
    const made = compute();
    this.used = before;
    const kept = this.matrix(made.rows, made.columns);
    if (kept.at !== made.at) this.operations.copy(kept, made);
    return kept;
  }

  // Takes back all that `compute` has made; what it returns must be numbers.
  release(compute) {
    const before = this.used;
    try {
      return compute();
    } finally {
      this.used = before;
    }
  }
}

// Element (i, j) is number i · down + j · right from `at`. Number (m, n) of a stack of such matrices lies another
// m · jumps[0] + n · jumps[1] numbers further on.
export class Matrix {
  constructor(memory, at, rows, columns, down, right, counts = [1, 1], jumps = [0, 0]) {
    Object.assign(this, { memory, at, rows, columns, down, right, counts, jumps });
  }

  get values() {
    return (this.view ??= new Float32Array(this.memory.buffer, this.at, this.rows * this.columns)); // of a whole matrix
  }

  // Of one row; its numbers lie side by side.
  row(row) {
    return new Float32Array(this.memory.buffer, this.at + 4 * row * this.down, this.columns);
  }

  get T() {
    return new Matrix(this.memory, this.at, this.columns, this.rows, this.right, this.down, this.counts, this.jumps);
  }

  part(row, column, rows, columns) {
    const at = this.at + 4 * (row * this.down + column * this.right);
    return new Matrix(this.memory, at, rows, columns, this.down, this.right);
  }

  // counts[0] · counts[1] matrices like this, the first of them.
  stack(counts, jumps) {
    return new Matrix(this.memory, this.at, this.rows, this.columns, this.down, this.right, counts, jumps);
  }
}

// C = A B, in a new matrix.
export function times(A, B) {
  return into(A.memory.matrix(A.rows, B.columns), A, B);
}

// C = A B, or C + A B.
export function into(C, A, B, add = false) {
  if (B.rows !== A.columns || C.rows !== A.rows || C.columns !== B.columns || C.right !== 1)
    throw new RangeError(`no product: ${A.rows} × ${A.columns} by ${B.rows} × ${B.columns} into ${C.rows} × ${C.columns}`);
  C.memory.operations.multiply(C, A, B, add);
  return C;
}

// x + y, where y was.
export function plus(x, y) {
  x.memory.operations.add(y, x);
  return y;
}
