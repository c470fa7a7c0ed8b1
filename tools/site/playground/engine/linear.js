// A linear layer and its low-rank update, LoRA (arXiv:2106.09685, §4.1):
//
//     h = (α/r) x Aᵀ        y = x Wᵀ + h Bᵀ + b        W (out, in), A (r, in), B (out, r), b (1, out), if there is one
//
// With the gradient dy of the loss after y, the chain rule gives
//
//     dB = dyᵀ h        dh = (α/r) dy B        dA = dhᵀ x        dx = dy W + dh A        dW = dyᵀ x, if W trains

import { into, times } from "./memory.js";

// Gives y and the function that leads the gradient back: it leaves those of what trains in their `gradient`, and gives
// dx, which the lowest layers do not need. A bias b never trains.
export function linear({ W, A, B, scaling, bias }, x) {
  const y = bias ? into(repeated(bias.value, x.rows), x, W.value.T, true) : times(x, W.value.T);
  const h = A && scaled(times(x, A.value.T), scaling);
  if (A) into(y, h, B.value.T, true);

  function back(dy, wanted = true) {
    if (W.gradient) into(W.gradient, dy.T, x);
    const dx = wanted && times(dy, W.value);
    if (A) {
      into(B.gradient, dy.T, h);
      const dh = scaled(times(dy, B.value), scaling);
      into(A.gradient, dh.T, x);
      if (wanted) into(dx, dh, A.value, true);
    }
    return dx;
  }
  return [y, back];
}

// ΔW = (α/r) B A, what merging adds to W.
export function delta({ A, B, scaling }) {
  return scaled(times(B.value, A.value), scaling);
}

function repeated(row, rows) {
  const matrix = row.memory.matrix(rows, row.columns);
  for (let at = 0; at < matrix.values.length; at += row.columns) matrix.values.set(row.values, at);
  return matrix;
}

function scaled(x, factor) {
  x.memory.operations.scale(x, factor);
  return x;
}
