// The Llama decoder (arXiv:2302.13971, §2.2), forward and backward: x + attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)).
//
// Each function gives its result and a function that takes the gradient of the loss after that result to the one before
// it. Rows are tokens, batch · length of them, one text behind the other.

import { attention } from "./attention.js";
import { linear } from "./linear.js";
import { exponential, plus } from "./memory.js";
import { rotaryAngles, rotate } from "./rotary.js";

// Hidden states (rows, hidden) of token ids. With `learns` false nothing is kept for a backward pass, and there is none.
export function decoder(model, ids, length, learns = true) {
  const { memory, embedding, layers, norm, config } = model;
  let x = embedded(memory, embedding.value, ids);
  const backs = layers.map((layer, place) => {
    if (!learns) return void (x = memory.keep(() => block(layer, x, length, config)[0]));
    const [y, back] = block(layer, x, length, config, embedding.gradient || place > 0);
    x = y;
    return back;
  });
  const [y, backNorm] = rmsNorm(x, norm, config.rms_norm_eps);

  function back(dy) {
    const { gradient } = embedding;
    let dx = backNorm(dy);
    for (const backBlock of backs.reverse()) dx = memory.keep(() => backBlock(dx) ?? memory.matrix(0, 0));
    if (gradient) addRows(gradient, ids, dx);
  }
  return [y, back];
}

// `below` says whether anything under this block needs its gradient.
function block(layer, x, length, config, below = true) {
  const [n, backNorm] = rmsNorm(x, layer.input_layernorm, config.rms_norm_eps);
  const [q, backQ] = linear(layer.q_proj, n);
  const [k, backK] = linear(layer.k_proj, n);
  const [v, backV] = linear(layer.v_proj, n);
  const [mixed, backMixed] = rotaryAttention(q, k, v, length, config);
  const [o, backO] = linear(layer.o_proj, mixed);
  const middle = plus(x, o);
  const [n2, backNorm2] = rmsNorm(middle, layer.post_attention_layernorm, config.rms_norm_eps);
  const [f, backF] = swiglu(layer, n2);
  const y = plus(middle, f);

  function back(dy) {
    const dMiddle = plus(dy, backNorm2(backF(dy)));
    const [dq, dk, dv] = backMixed(backO(dMiddle));
    const wanted = Boolean(below || layer.input_layernorm.gradient);
    const parts = [backQ(dq, wanted), backK(dk, wanted), backV(dv, wanted)];
    return wanted ? plus(dMiddle, backNorm(parts.reduce(plus))) : undefined;
  }
  return [y, back];
}

// Each position sees itself and those before it.
function rotaryAttention(q, k, v, length, config) {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads } = config;
  const d = q.columns / heads;
  const angles = rotaryAngles(length, d, config.rope_theta);
  for (const x of [q, k]) rotate(x, length, d, angles, 1);
  const [mixed, backMixed] = attention(q, k, v, { length, heads, kvHeads, seen: (position) => position + 1 });

  function back(dMixed) {
    const [dq, dk, dv] = [q, k, v].map((x) => x.memory.matrix(x.rows, x.columns));
    backMixed(dMixed, [dq, dk, dv]);
    for (const dx of [dq, dk]) rotate(dx, length, d, angles, -1);
    return [dq, dk, dv];
  }
  return [mixed, back];
}

// y = g · x / √(mean(x²) + ε), and with u = g · dy and s = 1 / √(…):  dx = s u − x s³ mean(u x)  (arXiv:1910.07467)
function rmsNorm(x, g, epsilon) {
  const { rows, columns, memory } = x;
  const y = memory.matrix(rows, columns);
  const scales = new Float64Array(rows);
  const [xs, ys, gain] = [x.values, y.values, g.value.values];
  for (let i = 0, at = 0; i < rows; i++, at += columns) {
    let squares = 0;
    for (let j = at; j < at + columns; j++) squares += xs[j] * xs[j];
    const s = (scales[i] = 1 / Math.sqrt(squares / columns + epsilon));
    for (let j = 0; j < columns; j++) ys[at + j] = gain[j] * xs[at + j] * s;
  }

  function back(dy) {
    const dx = memory.matrix(rows, columns);
    const [dys, dxs] = [dy.values, dx.values];
    const dg = g.gradient && new Float64Array(columns);
    for (let i = 0, at = 0; i < rows; i++, at += columns) {
      const s = scales[i];
      let mean = 0;
      for (let j = 0; j < columns; j++) mean += gain[j] * dys[at + j] * xs[at + j];
      const along = (s ** 3 * mean) / columns;
      for (let j = 0; j < columns; j++) dxs[at + j] = s * gain[j] * dys[at + j] - along * xs[at + j];
      if (dg) for (let j = 0; j < columns; j++) dg[j] += dys[at + j] * xs[at + j] * s;
    }
    if (dg) g.gradient.values.set(dg);
    return dx;
  }
  return [y, back];
}

// y = down(silu(gate x) · up x) with silu(a) = a σ(a) and silu′(a) = σ(a) (1 + a (1 − σ(a)))  (arXiv:2002.05202)
function swiglu(layer, x) {
  const [a, backA] = linear(layer.gate_proj, x);
  const [u, backU] = linear(layer.up_proj, x);
  const { memory, rows, columns } = a;
  const [sigma, product] = [memory.matrix(rows, columns), memory.matrix(rows, columns)];
  const [as, us, ss, ps] = [a.values, u.values, sigma.values, product.values];
  exponential(sigma, a, { factor: -1 });
  for (let i = 0; i < as.length; i++) {
    ss[i] = 1 / (1 + ss[i]);
    ps[i] = as[i] * ss[i] * us[i];
  }
  const [y, backY] = linear(layer.down_proj, product);

  function back(dy) {
    const dp = backY(dy);
    const [da, du] = [dp, sigma]; // in the places of what is not needed again
    const dps = dp.values;
    for (let i = 0; i < as.length; i++) {
      const silu = as[i] * ss[i];
      const slope = ss[i] + silu * (1 - ss[i]);
      ss[i] = dps[i] * silu;
      dps[i] *= us[i] * slope;
    }
    return plus(backA(da), backU(du));
  }
  return [y, back];
}

function embedded(memory, table, ids) {
  const x = memory.matrix(ids.length, table.columns);
  ids.forEach((id, row) => x.row(row).set(table.row(id)));
  return x;
}

function addRows(table, ids, dx) {
  ids.forEach((id, row) => {
    const [to, from] = [table.row(id), dx.row(row)];
    for (let j = 0; j < to.length; j++) to[j] += from[j];
  });
}
