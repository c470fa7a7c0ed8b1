// Attention in which groups of query heads share keys and values (arXiv:2305.13245). For each text and head, with positions
// i and those j that i sees:
//
//     S = Q Kᵀ / √d        P = softmax(S)        O = P V
//     dV = Pᵀ dO        dP = dO Vᵀ        dS = P · (dP − Σⱼ P · dP) / √d        dQ = dS K        dK = dSᵀ Q

import { into } from "./memory.js";

// Position i sees all, or if `causal` itself and those before it. The way back writes into [dq, dk, dv].
export function attention(q, k, v, { length, heads, kvHeads = heads, causal = false }) {
  const { memory, rows } = q;
  const d = q.columns / heads;
  const texts = rows / length;
  const group = heads / kvHeads; // heads of queries that share keys and values
  const mixed = memory.matrix(rows, q.columns);
  const P = memory.matrix(texts * heads * length, length);

  // Stacks of matrices, one for each text and head of keys: of the queries those of one member of each group.
  const query = (x, member) => x.part(0, member * d, length, d).stack([texts, kvHeads], [length * x.down, group * d]);
  const key = (x) => x.part(0, 0, length, d).stack([texts, kvHeads], [length * x.down, d]);
  const square = length ** 2;
  const share = (p, member) => p.part(member * length, 0, length, length).stack([texts, kvHeads], [heads * square, group * square]);
  const each = (visit) => Array.from({ length: group }, (_, member) => visit(member));

  each((one) => into(share(P, one), query(q, one), key(k).T));
  memory.operations.softmax(P, 1 / Math.sqrt(d), causal);
  each((one) => into(query(mixed, one), share(P, one), key(v)));

  function back(dO, [dq, dk, dv]) {
    const dS = memory.matrix(P.rows, length);
    each((one) => {
      into(key(dv), share(P, one).T, query(dO, one), one > 0);
      into(share(dS, one), query(dO, one), key(v).T);
    });
    memory.operations.softmaxBack(dS, P, 1 / Math.sqrt(d));
    each((one) => {
      into(query(dq, one), share(dS, one), key(k));
      into(key(dk), share(dS, one).T, query(q, one), one > 0);
    });
  }
  return [mixed, back];
}
