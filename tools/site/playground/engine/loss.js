// The cross-entropy of the next token, in nats, and its gradient:
//
//     z = E h        loss = mean over tokens of  log Σ exp z − z[wanted]        dz = (softmax(z) − onehot(wanted)) / tokens

import { decoder } from "./decoder.js";
import { exponential, into, times } from "./memory.js";

// Of windows (texts of `length` ids, one behind the other): the mean loss. If `learns`, leaves the gradients as well.
export function nextTokenLoss(model, windows, length, learns = true) {
  return model.memory.release(() => {
    const { value: E, gradient: dE } = model.embedding; // the head has the embedding's weight
    const ids = windows.filter((_, i) => (i + 1) % length); // what follows the last token of a text is not known
    const wanted = windows.filter((_, i) => i % length);
    const [h, back] = decoder(model, ids, length - 1, learns);
    const z = times(h, E.T);
    const loss = crossEntropy(z, wanted); // z now is dz
    if (learns) {
      if (dE) into(dE, z.T, h);
      back(times(z, E));
    }
    return loss;
  });
}

// The mean loss; `z` (tokens, vocabulary) becomes its own gradient.
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

// The mean over windows of a held-out text, some at a time.
export function heldOutLoss(model, windows, length, texts = 8) {
  let total = 0;
  for (let at = 0; at < windows.length; at += texts * length) {
    const some = windows.slice(at, at + texts * length);
    total += some.length * nextTokenLoss(model, some, length, false);
  }
  return total / windows.length;
}
