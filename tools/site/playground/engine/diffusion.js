// A diffusion transformer (arXiv:2212.09748), forward and backward. Pictures are cut into patches, the tokens; rows are
// those of one picture behind those of the other. In a block, time and label shift, scale and gate (§3.2):
//
//     x + gate · attention(LN(x) · (1 + scale) + shift), then the same with the feed-forward part.
//
// Each function gives its result and a function that takes the gradient of the loss after that result to the one before it.

import { attention } from "./attention.js";
import { linear } from "./linear.js";
import { plus } from "./memory.js";

const FASTEST = 1000; // radians that the quickest of the time's waves turns from t = 0 to t = 1

// The velocities (batch, size²) of pictures (batch, size²) at `times`, on their way to `labels`. With `learns` false
// nothing is kept for a backward pass, and there is none.
export function velocities(model, pictures, times, labels, learns = true) {
  const { memory, layers, config } = model;
  const said = condition(model, times, labels);
  let x = placed(linear(model.patch_in, toPatches(pictures, config))[0], model.positions.value);
  const backs = layers.map((layer) => {
    if (!learns) return void (x = memory.keep(() => block(layer, x, said, config)[0]));
    const [y, back] = block(layer, x, said, config);
    x = y;
    return back;
  });
  const [m, backM] = linear(model.modulation, said);
  const [shift, scale] = chunks(m, 2);
  const [n, backNorm] = modulatedNorm(x, shift, scale);
  const [v, backV] = linear(model.patch_out, n);

  function back(dv) {
    const dm = memory.zeros(m.rows, m.columns);
    let dx = backNorm(backV(toPatches(dv, config)), chunks(dm, 2));
    backM(dm, false);
    for (const backBlock of backs.reverse()) dx = memory.keep(() => backBlock(dx));
  }
  return [fromPatches(v, config), back];
}

function block(layer, x, said, { num_attention_heads: heads }) {
  const { memory, rows } = x;
  const length = rows / said.rows;
  const [m, backM] = linear(layer.modulation, said);
  const [shift, scale, gate, shift2, scale2, gate2] = chunks(m, 6);
  const [n, backNorm] = modulatedNorm(x, shift, scale);
  const [qkv, backQkv] = linear(layer.qkv, n);
  const [mixed, backMixed] = attention(...chunks(qkv, 3), { length, heads });
  const [a, backA] = linear(layer.proj, mixed);
  const [middle, backGate] = gated(x, a, gate);
  const [n2, backNorm2] = modulatedNorm(middle, shift2, scale2);
  const [u, backU] = linear(layer.up, n2);
  const [g, backG] = gelu(u);
  const [f, backF] = linear(layer.down, g);
  const [y, backGate2] = gated(middle, f, gate2);

  function back(dy) {
    const dm = memory.zeros(m.rows, m.columns);
    const [dShift, dScale, dGate, dShift2, dScale2, dGate2] = chunks(dm, 6);
    const dn2 = backU(backG(backF(backGate2(dy, dGate2))));
    const dMiddle = plus(dy, backNorm2(dn2, [dShift2, dScale2]));
    const dqkv = memory.matrix(rows, qkv.columns);
    backMixed(backA(backGate(dMiddle, dGate)), chunks(dqkv, 3));
    const dx = plus(dMiddle, backNorm(backQkv(dqkv), [dShift, dScale]));
    backM(dm, false);
    return dx;
  }
  return [y, back];
}

// y = n (1 + scale) + shift with n = (x − mean) / √(variance + ε) of each row, and with u = (1 + scale) dy:
// dx = (u − mean(u) − n mean(u n)) / √(…), and over the rows of a picture dshift = Σ dy, dscale = Σ dy n
function modulatedNorm(x, shift, scale, epsilon = 1e-6) {
  const { memory, rows, columns } = x;
  const y = memory.matrix(rows, columns);
  const [means, shares] = [new Float64Array(rows), new Float64Array(rows)];
  const [xs, ys] = [x.values, y.values];
  eachRow(rows, columns, [shift, scale], (row, at, b, s) => {
    let sum = 0;
    let squares = 0;
    for (let j = at; j < at + columns; j++) {
      sum += xs[j];
      squares += xs[j] * xs[j]; // in fp64, where their difference below is safe
    }
    const mean = (means[row] = sum / columns);
    const share = (shares[row] = 1 / Math.sqrt(squares / columns - mean * mean + epsilon));
    for (let j = 0; j < columns; j++) ys[at + j] = (xs[at + j] - mean) * share * (1 + s[j]) + b[j];
  });

  function back(dy, [dShift, dScale]) {
    const dx = memory.matrix(rows, columns);
    const [dys, dxs] = [dy.values, dx.values];
    eachRow(rows, columns, [scale, dShift, dScale], (row, at, s, db, ds) => {
      const mean = means[row];
      const share = shares[row];
      let sum = 0;
      let along = 0;
      for (let j = 0; j < columns; j++) {
        const d = dys[at + j];
        const n = (xs[at + j] - mean) * share;
        const u = d * (1 + s[j]);
        dxs[at + j] = u;
        db[j] += d;
        ds[j] += d * n;
        sum += u;
        along += u * n;
      }
      const middle = sum / columns;
      const part = along / columns;
      for (let j = at; j < at + columns; j++) dxs[j] = share * (dxs[j] - middle - (xs[j] - mean) * share * part);
    });
    return dx;
  }
  return [y, back];
}

// y = x + gate a;  da = gate dy, dgate = Σ a dy over the rows of a picture, and dx = dy
function gated(x, a, gate) {
  const { memory, rows, columns } = x;
  const y = memory.matrix(rows, columns);
  const [xs, as, ys] = [x.values, a.values, y.values];
  eachRow(rows, columns, [gate], (row, at, g) => {
    for (let j = 0; j < columns; j++) ys[at + j] = xs[at + j] + g[j] * as[at + j];
  });

  function back(dy, dGate) {
    const da = memory.matrix(rows, columns);
    const [dys, das] = [dy.values, da.values];
    eachRow(rows, columns, [gate, dGate], (row, at, g, dg) => {
      for (let j = 0; j < columns; j++) {
        das[at + j] = g[j] * dys[at + j];
        dg[j] += as[at + j] * dys[at + j];
      }
    });
    return da;
  }
  return [y, back];
}

function gelu(u) {
  const { memory, rows, columns } = u;
  const [g, slope] = [memory.matrix(rows, columns), memory.matrix(rows, columns)];
  memory.simd.gelu(g.at, slope.at, u.at, rows * columns);

  function back(dg) {
    const [dgs, slopes] = [dg.values, slope.values]; // dg becomes du
    for (let i = 0; i < dgs.length; i++) dgs[i] *= slopes[i];
    return dg;
  }
  return [g, back];
}

// What time and label say, (batch, hidden): silu(time_out(silu(time_in(waves))) + the label's row). It does not train.
function condition({ memory, config, time_in, time_out, labels: table }, times, labels) {
  const waves = memory.matrix(times.length, config.time_features);
  times.forEach((time, row) => waves.row(row).set(timeWaves(time, config.time_features)));
  const [said] = linear(time_out, silu(linear(time_in, waves)[0]));
  labels.forEach((label, row) => {
    const [to, from] = [said.row(row), table.value.row(label)];
    for (let j = 0; j < to.length; j++) to[j] += from[j];
  });
  return silu(said);
}

function silu(x) {
  x.values.forEach((value, i, values) => (values[i] = value / (1 + Math.exp(-value))));
  return x;
}

// cos and sin of 1000 t · 10000^(−i / half), rounded to fp32 at each step, as the package does.
function timeWaves(time, count) {
  const half = count / 2;
  const angles = Float64Array.from({ length: half }, (_, i) => {
    const frequency = Math.fround(10000 ** -Math.fround(i / half));
    return Math.fround(Math.fround(time * FASTEST) * frequency);
  });
  return [...angles.map(Math.cos), ...angles.map(Math.sin)];
}

// Adds to each token what says where it stands.
function placed(x, positions) {
  const [values, places] = [x.values, positions.values];
  for (let i = 0; i < values.length; i++) values[i] += places[i % places.length];
  return x;
}

// `count` matrices side by side in one.
function chunks(x, count) {
  const columns = x.columns / count;
  return Array.from({ length: count }, (_, i) => x.part(0, i * columns, x.rows, columns));
}

// Visits each row with its number, where it begins, and the numbers in `each` that belong to its picture.
function eachRow(rows, columns, each, visit) {
  const length = rows / each[0].rows;
  for (let row = 0, at = 0, own; row < rows; row++, at += columns) {
    if (row % length === 0) own = each.map((one) => one.row(row / length));
    visit(row, at, ...own);
  }
}

function toPatches(pictures, config) {
  const patches = pictures.memory.matrix(pictures.rows * (config.image_size / config.patch_size) ** 2, config.patch_size ** 2);
  eachPixel(patches, config, (place, pixel) => (patches.values[place] = pictures.values[pixel]));
  return patches;
}

function fromPatches(patches, config) {
  const pixels = config.image_size ** 2;
  const pictures = patches.memory.matrix(patches.values.length / pixels, pixels);
  eachPixel(patches, config, (place, pixel) => (pictures.values[pixel] = patches.values[place]));
  return pictures;
}

// Visits each pixel: its place among the patches, row by row, and among the pictures.
function eachPixel(patches, { image_size: size, patch_size: side }, visit) {
  const across = size / side;
  for (let place = 0; place < patches.values.length; place++) {
    const patch = Math.floor(place / side ** 2);
    const inside = place % side ** 2;
    const row = Math.floor(patch / across) * side + Math.floor(inside / side); // counted through all pictures
    visit(place, row * size + (patch % across) * side + (inside % side));
  }
}
