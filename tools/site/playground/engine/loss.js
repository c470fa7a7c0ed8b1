// The cross-entropy of the next token, in nats, and its gradient:
//
//     z = E h        loss = mean over tokens of  log Σ exp z − z[wanted]        dz = (softmax(z) − onehot(wanted)) / tokens

import { decoder } from "./decoder.js";
import { into, times } from "./memory.js";

// Of windows (texts of `length` ids, one behind the other): the mean loss. If `learns`, leaves the gradients as well.
export function nextTokenLoss(model, windows, length, learns = true) {
  const { memory, embedding } = model;
  return memory.release(() => {
    const { value: E, gradient: dE } = embedding; // the head has the embedding's weight
    const [ids, wanted] = pairs(windows, length);
    const [h, back] = decoder(model, ids, length - 1, learns);
    const z = times(h, E.T);
    const loss = memory.operations.crossEntropy(z, wanted); // z now is dz
    if (learns) {
      if (dE) into(dE, z.T, h);
      back(times(z, E));
    }
    return loss;
  });
}

// The tokens that are read, and those wanted after them; what follows the last token of a text is not known.
export function pairs(windows, length) {
  return [windows.filter((_, i) => (i + 1) % length), windows.filter((_, i) => i % length)];
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
