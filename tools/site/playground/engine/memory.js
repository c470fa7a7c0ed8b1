// Matrices in one WebAssembly memory, where simd.ts finds them, and what it does with them.
//
// Room is given out one piece behind the other and taken back all at once: what a step has computed is gone after it.

const PANEL = 8 * 4 * 2048 + 64; // bytes for eight columns of as many rows as any product here sums over

export class Memory {
  // With the first of `codes` that this browser understands. LoRA of rank 64 takes 48 megabytes.
  static async open(codes, megabytes = 52) {
    const memory = new WebAssembly.Memory({ initial: megabytes * 16 });
    const code = codes.find((one) => WebAssembly.validate(one));
    if (!code) throw new Error("this browser has no SIMD in WebAssembly: try a newer one");
    const { instance } = await WebAssembly.instantiate(code, { env: { memory, abort: () => {} } });
    return new Memory(memory.buffer, instance.exports);
  }

  constructor(buffer, simd) {
    Object.assign(this, { buffer, simd, used: PANEL });
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
    if (kept.at !== made.at) kept.values.set(made.values); // copies as if through a buffer, should they overlap
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

// Element (i, j) is number i · down + j · right from `at`.
export class Matrix {
  constructor(memory, at, rows, columns, down, right) {
    Object.assign(this, { memory, at, rows, columns, down, right });
  }

  get values() {
    return (this.view ??= new Float32Array(this.memory.buffer, this.at, this.rows * this.columns)); // of a whole matrix
  }

  // Of one row; its numbers lie side by side.
  row(row) {
    return new Float32Array(this.memory.buffer, this.at + 4 * row * this.down, this.columns);
  }

  get T() {
    return new Matrix(this.memory, this.at, this.columns, this.rows, this.right, this.down);
  }

  part(row, column, rows, columns) {
    const at = this.at + 4 * (row * this.down + column * this.right);
    return new Matrix(this.memory, at, rows, columns, this.down, this.right);
  }
}

// C = A B, in a new matrix.
export function times(A, B) {
  return into(A.memory.matrix(A.rows, B.columns), A, B);
}

// C = A B, or C + A B.
export function into(C, A, B, add = false) {
  const sizes = [A.rows, B.columns, A.columns];
  if (B.rows !== A.columns || C.rows !== A.rows || C.columns !== B.columns || C.right !== 1)
    throw new RangeError(`no product: ${A.rows} × ${A.columns} by ${B.rows} × ${B.columns} into ${C.rows} × ${C.columns}`);
  const [a, b] = [A, B].map(({ at, down, right }) => [at, 4 * down, 4 * right]);
  C.memory.simd.multiply(C.at, 4 * C.down, ...a, ...b, ...sizes, add, 0);
  return C;
}

// y = exp(factor · (x − shift)) of each number, or of one row; y may be x.
export function exponential(y, x, { factor = 1, shift = 0, row }) {
  const count = row === undefined ? x.rows * x.columns : x.columns;
  const skipped = 4 * count * (row ?? 0);
  x.memory.simd.exponential(y.at + skipped, x.at + skipped, count, factor, shift, 0);
}

// x + y, where y was.
export function plus(x, y) {
  const [from, to] = [x.values, y.values];
  for (let i = 0; i < to.length; i++) to[i] += from[i];
  return y;
}
