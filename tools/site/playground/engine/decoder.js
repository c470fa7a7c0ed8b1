// The Llama decoder (arXiv:2302.13971, §2.2), forward and backward: x + attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)).
//
// Each function gives its result and a function that takes the gradient of the loss after that result to the one before
// it. Rows are tokens, batch · length of them, one text behind the other.

import { attention } from "./attention.js";
import { linear } from "./linear.js";
import { plus } from "./memory.js";

// Hidden states (rows, hidden) of token ids. With `learns` false nothing is kept for a backward pass, and there is none.
export function decoder(model, ids, length, learns = true) {
  const { memory, embedding, layers, norm, config } = model;
  let x = memory.matrix(ids.length, embedding.value.columns);
  memory.operations.embed(x, embedding.value, ids);
  const backs = layers.map((layer, place) => {
    if (!learns) return void (x = memory.keep(() => block(model, layer, x, length)[0]));
    const [y, back] = block(model, layer, x, length, embedding.gradient || place > 0);
    x = y;
    return back;
  });
  const [y, backNorm] = rmsNorm(x, norm, config.rms_norm_eps);

  function back(dy) {
    const { gradient } = embedding;
    let dx = backNorm(dy);
    for (const backBlock of backs.reverse()) dx = memory.keep(() => backBlock(dx) ?? memory.matrix(0, 0));
    if (gradient) memory.operations.embedBack(gradient, dx, ids);
  }
  return [y, back];
}

// `below` says whether anything under this block needs its gradient.
function block(model, layer, x, length, below = true) {
  const { rms_norm_eps: epsilon } = model.config;
  const [n, backNorm] = rmsNorm(x, layer.input_layernorm, epsilon);
  const [q, backQ] = linear(layer.q_proj, n);
  const [k, backK] = linear(layer.k_proj, n);
  const [v, backV] = linear(layer.v_proj, n);
  const [mixed, backMixed] = rotaryAttention(model, [q, k, v], length);
  const [o, backO] = linear(layer.o_proj, mixed);
  const middle = plus(x, o);
  const [n2, backNorm2] = rmsNorm(middle, layer.post_attention_layernorm, epsilon);
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
function rotaryAttention({ memory, config, angles }, [q, k, v], length) {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads } = config;
  const d = q.columns / heads;
  for (const x of [q, k]) memory.operations.turn(x, length, d, angles, 1);
  const [mixed, backMixed] = attention(q, k, v, { length, heads, kvHeads, causal: true });

  function back(dMixed) {
    const [dq, dk, dv] = [q, k, v].map((x) => memory.matrix(x.rows, x.columns));
    backMixed(dMixed, [dq, dk, dv]);
    for (const dx of [dq, dk]) memory.operations.turn(dx, length, d, angles, -1);
    return [dq, dk, dv];
  }
  return [mixed, back];
}

// y = g · x · s with s = 1 / √(mean(x²) + ε), and with u = g · dy:  dx = s u − x s³ mean(u x), dg = Σ dy x s over the
// rows (arXiv:1910.07467)
function rmsNorm(x, g, epsilon) {
  const { rows, columns, memory } = x;
  const [y, s] = [memory.matrix(rows, columns), memory.matrix(rows, 1)];
  memory.operations.rmsNorm(y, s, x, g.value, epsilon);

  function back(dy) {
    const dx = memory.matrix(rows, columns);
    memory.operations.rmsNormBack(dx, dy, x, g.value, s);
    if (g.gradient) memory.operations.gainBack(g.gradient, dy, x, s);
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
  memory.operations.swiglu(product, sigma, a, u);
  const [y, backY] = linear(layer.down_proj, product);

  function back(dy) {
    const dp = backY(dy);
    memory.operations.swigluBack(dp, sigma, a, u); // they are da and du now
    return plus(backA(dp), backU(sigma));
  }
  return [y, back];
}
