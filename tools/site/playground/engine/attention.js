// Attention in which groups of query heads share keys and values (arXiv:2305.13245). For each text and head, with positions
// i and those j that i sees:
//
//     S = Q Kᵀ / √d        P = softmax(S)        O = P V
//     dV = Pᵀ dO        dP = dO Vᵀ        dS = P · (dP − Σⱼ P · dP) / √d        dQ = dS K        dK = dSᵀ Q

import { exponential, into } from "./memory.js";

// `seen(i)` is how many positions, from the first on, position i sees. The way back writes into [dq, dk, dv].
export function attention(q, k, v, { length, heads, kvHeads = heads, seen }) {
  const { memory, rows } = q;
  const d = q.columns / heads;
  const texts = rows / length;
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
  softmax(P, length, 1 / Math.sqrt(d), seen);
  each((query, key, p) => into(query(mixed), p, key(v)));

  function back(dO, [dq, dk, dv]) {
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
  }
  return [mixed, back];
}

// Each row over the positions that it sees; 0 elsewhere.
function softmax(P, length, factor, seen) {
  const { values, rows } = P;
  for (let row = 0, at = 0; row < rows; row++, at += length) {
    const end = at + seen(row % length);
    let largest = -Infinity;
    for (let j = at; j < end; j++) if (values[j] > largest) largest = values[j];
    exponential(P, P, { factor, shift: largest, row });
    let sum = 0;
    for (let j = at; j < end; j++) sum += values[j];
    const share = 1 / sum;
    for (let j = at; j < end; j++) values[j] *= share;
    values.fill(0, end, at + length);
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
