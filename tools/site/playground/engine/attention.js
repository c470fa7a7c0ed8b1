// Attention with rotary positions (arXiv:2104.09864) in which groups of query heads share keys and values
// (arXiv:2305.13245). For each text and head, with positions i and j ≤ i:
//
//     S = Q Kᵀ / √d        P = softmax(S)        O = P V
//     dV = Pᵀ dO        dP = dO Vᵀ        dS = P · (dP − Σⱼ P · dP) / √d        dQ = dS K        dK = dSᵀ Q

import { exponential, into } from "./memory.js";

export function attention(q, k, v, length, config) {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads } = config;
  const { memory, rows } = q;
  const d = q.columns / heads;
  const texts = rows / length;
  const angles = rotaryAngles(length, d, config.rope_theta);
  rotate(q, length, d, angles, 1);
  rotate(k, length, d, angles, 1);
  const mixed = memory.matrix(rows, q.columns);
  const P = memory.matrix(texts * heads * length, length);

  // What belongs to one head of one text in q and what is like it, in k and what is like it, and in P.
  const each = (visit) => {
    for (let text = 0; text < texts; text++)
      for (let head = 0; head < heads; head++) {
        const group = Math.floor((head * kvHeads) / heads);
        const query = (x) => x.part(text * length, head * d, length, d);
        const key = (x) => x.part(text * length, group * d, length, d);
        const first = head === 0 || group !== Math.floor(((head - 1) * kvHeads) / heads); // of those that share a key
        visit(query, key, P.part((text * heads + head) * length, 0, length, length), first);
      }
  };

  each((query, key, p) => into(p, query(q), key(k).T));
  softmax(P, length, 1 / Math.sqrt(d));
  each((query, key, p) => into(query(mixed), p, key(v)));

  function back(dO) {
    const [dq, dk, dv] = [q, k, v].map((x) => memory.matrix(rows, x.columns));
    const dS = memory.matrix(P.rows, length);
    const beside = (p) => new p.constructor(memory, p.at - P.at + dS.at, length, length, length, 1);
    each((query, key, p, first) => {
      into(key(dv), p.T, query(dO), !first);
      into(beside(p), query(dO), key(v).T);
    });
    softmaxBack(dS, P, length, 1 / Math.sqrt(d));
    each((query, key, p, first) => {
      into(query(dq), beside(p), key(k));
      into(key(dk), beside(p).T, query(q), !first);
    });
    rotate(dq, length, d, angles, -1);
    rotate(dk, length, d, angles, -1);
    return [dq, dk, dv];
  }
  return [mixed, back];
}

// Each row over the positions that it sees; 0 elsewhere.
function softmax(P, length, factor) {
  const { values, rows } = P;
  for (let row = 0, at = 0; row < rows; row++, at += length) {
    const seen = at + (row % length) + 1;
    let largest = -Infinity;
    for (let j = at; j < seen; j++) if (values[j] > largest) largest = values[j];
    exponential(P, P, { factor, shift: largest, row });
    let sum = 0;
    for (let j = at; j < seen; j++) sum += values[j];
    const share = 1 / sum;
    for (let j = at; j < seen; j++) values[j] *= share;
    values.fill(0, seen, at + length);
  }
}

function softmaxBack(dP, P, length, factor) {
  const [d, p] = [dP.values, P.values];
  for (let at = 0; at < p.length; at += length) {
    let sum = 0;
    for (let j = at; j < at + length; j++) sum += p[j] * d[j];
    for (let j = at; j < at + length; j++) d[j] = factor * p[j] * (d[j] - sum);
  }
}

// cos and sin of position · theta^(−2i/d), rounded to fp32 at each step, as the package does.
export function rotaryAngles(length, d, theta) {
  const half = d / 2;
  const [cos, sin] = [new Float32Array(length * half), new Float32Array(length * half)];
  for (let i = 0; i < half; i++) {
    const frequency = Math.fround(1 / Math.fround(theta ** Math.fround((2 * i) / d)));
    for (let position = 0; position < length; position++) {
      const angle = Math.fround(position * frequency);
      cos[position * half + i] = Math.cos(angle);
      sin[position * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}

// Turns each pair (x[i], x[i + d/2]) of each head by the angle of its position, in place; `turn` −1 turns it back.
export function rotate({ values, rows, columns }, length, d, { cos, sin }, turn, start = 0) {
  const half = d / 2;
  for (let row = 0; row < rows; row++) {
    const angle = (start + (row % length)) * half;
    for (let head = row * columns; head < (row + 1) * columns; head += d)
      for (let i = 0; i < half; i++) {
        const c = cos[angle + i];
        const s = turn * sin[angle + i];
        const a = values[head + i];
        const b = values[head + half + i];
        values[head + i] = a * c - b * s;
        values[head + half + i] = b * c + a * s;
      }
  }
}
