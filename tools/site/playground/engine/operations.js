// What a processor does with whole matrices, number by number. graphics.js has the same of a step for the graphics processor.
//
// The first argument is what changes. The equations stand where each is used: attention.js, decoder.js, loss.js, adamw.js.

import { rotate } from "./rotary.js";

// C = A B, or C + A B, of each matrix of a stack.
export function multiply(C, A, B, add) {
  const { simd } = C.memory;
  const [c, a, b] = [C, A, B].map(({ down, right }) => [4 * down, 4 * right]);
  for (let i = 0; i < C.counts[0]; i++)
    for (let j = 0; j < C.counts[1]; j++) {
      const [toC, toA, toB] = [C, A, B].map(({ at, jumps }) => at + 4 * (i * jumps[0] + j * jumps[1]));
      simd.multiply(toC, c[0], toA, ...a, toB, ...b, C.rows, C.columns, A.columns, add, 0);
    }
}

// y = x; it copies as if through a buffer, should they overlap.
export function copy(y, x) {
  y.values.set(x.values);
}

// y = x + y
export function add(y, x) {
  const [from, to] = [x.values, y.values];
  for (let i = 0; i < to.length; i++) to[i] += from[i];
}

export function scale(x, factor) {
  const { values } = x;
  for (let i = 0; i < values.length; i++) values[i] *= factor;
}

// y = exp(factor · (x − shift)) of each number, or of one row; y may be x.
export function exponential(y, x, { factor = 1, shift = 0, row }) {
  const count = row === undefined ? x.rows * x.columns : x.columns;
  const skipped = 4 * count * (row ?? 0);
  x.memory.simd.exponential(y.at + skipped, x.at + skipped, count, factor, shift, 0);
}

// Rows of a table, and the way back.
export function embed(x, table, ids) {
  ids.forEach((id, row) => x.row(row).set(table.row(id)));
}

export function embedBack(table, dx, ids) {
  ids.forEach((id, row) => {
    const [to, from] = [table.row(id), dx.row(row)];
    for (let j = 0; j < to.length; j++) to[j] += from[j];
  });
}

// Turns each pair of a head of d numbers by the angle of its position.
export function turn(x, length, d, { cos, sin }, direction) {
  rotate(x, length, d, { cos: cos.values, sin: sin.values }, direction);
}

// y = g · x · s, and s of each row.
export function rmsNorm(y, s, x, gain, epsilon) {
  const { rows, columns } = x;
  const [xs, ys, g, scales] = [x.values, y.values, gain.values, s.values];
  for (let i = 0, at = 0; i < rows; i++, at += columns) {
    let squares = 0;
    for (let j = at; j < at + columns; j++) squares += xs[j] * xs[j];
    scales[i] = 1 / Math.sqrt(squares / columns + epsilon);
    for (let j = 0; j < columns; j++) ys[at + j] = g[j] * xs[at + j] * scales[i];
  }
}

export function rmsNormBack(dx, dy, x, gain, s) {
  const { rows, columns } = x;
  const [dxs, dys, xs, g, scales] = [dx.values, dy.values, x.values, gain.values, s.values];
  for (let i = 0, at = 0; i < rows; i++, at += columns) {
    let mean = 0;
    for (let j = 0; j < columns; j++) mean += g[j] * dys[at + j] * xs[at + j];
    const along = (scales[i] ** 3 * mean) / columns;
    for (let j = 0; j < columns; j++) dxs[at + j] = scales[i] * g[j] * dys[at + j] - along * xs[at + j];
  }
}

export function gainBack(dg, dy, x, s) {
  const { rows, columns } = x;
  const [dgs, dys, xs, scales] = [dg.values, dy.values, x.values, s.values];
  for (let j = 0; j < columns; j++) {
    let sum = 0;
    for (let i = 0, at = j; i < rows; i++, at += columns) sum += dys[at] * xs[at] * scales[i];
    dgs[j] = sum;
  }
}

// Each row over the positions that it sees, all or those up to its own; 0 elsewhere.
export function softmax(P, factor, causal) {
  const { values, rows, columns } = P;
  for (let row = 0, at = 0; row < rows; row++, at += columns) {
    const end = at + (causal ? (row % columns) + 1 : columns);
    let largest = -Infinity;
    for (let j = at; j < end; j++) if (values[j] > largest) largest = values[j];
    exponential(P, P, { factor, shift: largest, row });
    let sum = 0;
    for (let j = at; j < end; j++) sum += values[j];
    const share = 1 / sum;
    for (let j = at; j < end; j++) values[j] *= share;
    values.fill(0, end, at + columns);
  }
}

export function softmaxBack(dP, P, factor) {
  const [d, p] = [dP.values, P.values];
  for (let at = 0; at < p.length; at += P.columns) {
    let sum = 0;
    for (let j = at; j < at + P.columns; j++) sum += p[j] * d[j];
    for (let j = at; j < at + P.columns; j++) d[j] = factor * p[j] * (d[j] - sum);
  }
}

// p = silu(a) · u, and σ(a).
export function swiglu(p, sigma, a, u) {
  const [ps, ss, as, us] = [p.values, sigma.values, a.values, u.values];
  exponential(sigma, a, { factor: -1 });
  for (let i = 0; i < as.length; i++) {
    ss[i] = 1 / (1 + ss[i]);
    ps[i] = as[i] * ss[i] * us[i];
  }
}

// dp becomes da, and σ(a) becomes du: neither is needed again.
export function swigluBack(dp, sigma, a, u) {
  const [dps, ss, as, us] = [dp.values, sigma.values, a.values, u.values];
  for (let i = 0; i < as.length; i++) {
    const silu = as[i] * ss[i];
    const slope = ss[i] + silu * (1 - ss[i]);
    ss[i] = dps[i] * silu;
    dps[i] *= us[i] * slope;
  }
}

// z becomes its own gradient; gives the mean loss.
export function crossEntropy(z, wanted) {
  const { values, rows, columns } = z;
  let total = 0;
  for (let row = 0, at = 0; row < rows; row++, at += columns) {
    const end = at + columns;
    const right = values[at + wanted[row]];
    let largest = -Infinity;
    for (let j = at; j < end; j++) if (values[j] > largest) largest = values[j];
    exponential(z, z, { shift: largest, row });
    let sum = 0;
    for (let j = at; j < end; j++) sum += values[j];
    total += largest + Math.log(sum) - right;
    const share = 1 / (sum * rows);
    for (let j = at; j < end; j++) values[j] *= share;
    values[at + wanted[row]] -= 1 / rows;
  }
  return total / rows;
}

// Shortens gradients to a total norm of at most `longest`; gives the norm that they had.
export function clip(gradients, longest) {
  let squares = 0;
  for (const { values } of gradients) for (let i = 0; i < values.length; i++) squares += values[i] * values[i];
  const norm = Math.sqrt(squares);
  const factor = longest / (norm + 1e-6);
  if (factor < 1) for (const gradient of gradients) scale(gradient, factor);
  return norm;
}

export function adamw(theta, g, m, v, [size, root], { beta1, beta2, epsilon }) {
  const [thetas, gs, ms, vs] = [theta.values, g.values, m.values, v.values];
  for (let i = 0; i < gs.length; i++) {
    ms[i] += (1 - beta1) * (gs[i] - ms[i]);
    vs[i] = beta2 * vs[i] + (1 - beta2) * gs[i] * gs[i];
    thetas[i] -= (size * ms[i]) / (Math.sqrt(vs[i]) / root + epsilon);
  }
}
