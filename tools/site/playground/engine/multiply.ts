// The one product of matrices under everything: C = A B, or C + A B, in fp32.
//
// Element (i, k) of A lies at a + i·ai + k·ak, so that a transposed matrix is one whose strides change places. C's rows are
// contiguous, ci apart. No size need be a multiple of anything.
//
// Eight columns of B at a time are copied into `panel`, 32 bytes a row, which the L1 cache holds while all rows of A pass
// by. Four rows by eight columns of C are eight vectors of four: they stay in registers for the whole sum over k.

export function multiply(
  c: usize, ci: usize, a: usize, ai: usize, ak: usize, b: usize, bk: usize, bj: usize,
  m: usize, n: usize, k: usize, add: bool, panel: usize,
): void {
  const row = panel + 32 * k; // of C, before it is cut to the columns that there are
  for (let j: usize = 0; j < n; j += 8) {
    const width = min<usize>(8, n - j);
    pack(panel, b + j * bj, bk, bj, k, width);
    let i: usize = 0;
    for (; i + 4 <= m; i += 4) four(c + i * ci + 4 * j, ci, a + i * ai, ai, ak, panel, k, width, add, row);
    for (; i < m; i++) one(c + i * ci + 4 * j, a + i * ai, ak, panel, k, width, add, row);
  }
}

function pack(panel: usize, b: usize, bk: usize, bj: usize, k: usize, width: usize): void {
  if (width < 8) memory.fill(panel, 0, 32 * k);
  if (bj == 4 && width == 8) {
    for (let p: usize = 0; p < k; p++, b += bk, panel += 32) {
      v128.store(panel, v128.load(b));
      v128.store(panel + 16, v128.load(b + 16));
    }
    return;
  }
  for (let p: usize = 0; p < k; p++) {
    const from = b + p * bk, to = panel + 32 * p;
    for (let q: usize = 0; q < width; q++) store<f32>(to + 4 * q, load<f32>(from + q * bj));
  }
}

function four(
  c: usize, ci: usize, a: usize, ai: usize, ak: usize, panel: usize, k: usize, width: usize, add: bool, row: usize,
): void {
  let c00 = f32x4.splat(0), c01 = c00, c10 = c00, c11 = c00, c20 = c00, c21 = c00, c30 = c00, c31 = c00;
  let a0 = a, a1 = a + ai, a2 = a + 2 * ai, a3 = a + 3 * ai;
  const end = panel + 32 * k;
  for (; panel < end; panel += 32, a0 += ak, a1 += ak, a2 += ak, a3 += ak) {
    const b0 = v128.load(panel), b1 = v128.load(panel + 16);
    const x0 = v128.load_splat<f32>(a0), x1 = v128.load_splat<f32>(a1);
    c00 = multiplyAdd(x0, b0, c00);
    c01 = multiplyAdd(x0, b1, c01);
    c10 = multiplyAdd(x1, b0, c10);
    c11 = multiplyAdd(x1, b1, c11);
    const x2 = v128.load_splat<f32>(a2), x3 = v128.load_splat<f32>(a3);
    c20 = multiplyAdd(x2, b0, c20);
    c21 = multiplyAdd(x2, b1, c21);
    c30 = multiplyAdd(x3, b0, c30);
    c31 = multiplyAdd(x3, b1, c31);
  }
  write(c, c00, c01, width, add, row);
  write(c + ci, c10, c11, width, add, row);
  write(c + 2 * ci, c20, c21, width, add, row);
  write(c + 3 * ci, c30, c31, width, add, row);
}

function one(c: usize, a: usize, ak: usize, panel: usize, k: usize, width: usize, add: bool, row: usize): void {
  let c0 = f32x4.splat(0), c1 = c0;
  const end = panel + 32 * k;
  for (; panel < end; panel += 32, a += ak) {
    const x = v128.load_splat<f32>(a);
    c0 = multiplyAdd(x, v128.load(panel), c0);
    c1 = multiplyAdd(x, v128.load(panel + 16), c1);
  }
  write(c, c0, c1, width, add, row);
}

// @ts-ignore: decorator
@inline
function write(c: usize, c0: v128, c1: v128, width: usize, add: bool, row: usize): void {
  if (width == 8) {
    if (add) {
      c0 = f32x4.add(c0, v128.load(c));
      c1 = f32x4.add(c1, v128.load(c + 16));
    }
    v128.store(c, c0);
    v128.store(c + 16, c1);
    return;
  }
  v128.store(row, c0);
  v128.store(row + 16, c1);
  for (let q: usize = 0; q < 4 * width; q += 4) store<f32>(c + q, load<f32>(row + q) + (add ? load<f32>(c + q) : 0));
}

// x y + z
// @ts-ignore: decorator
@inline
export function multiplyAdd(x: v128, y: v128, z: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(x, y, z);
  return f32x4.add(f32x4.mul(x, y), z);
}
