// Flow matching (arXiv:2210.02747). On the line from noise ε to a picture x lies x_t = (1 − t) ε + t x, and along it the
// velocity is x − ε, which the model v learns:
//
//     loss = mean of (v(x_t, t, label) − (x − ε))²        dv = 2 (v − (x − ε)) / pixels
//
// To draw, follow it from noise at t = 0 to t = 1 by Euler's method: x ← x + Δt v(x, t, label).

import { velocities } from "./diffusion.js";
import { Random } from "./random.js";

// Of a batch as `flowBatches` makes it. If `learns`, leaves the gradients as well.
export function flowLoss(model, { images, labels, noise, times }, learns = true) {
  return model.memory.release(() => {
    const pixels = model.config.image_size ** 2;
    const between = model.memory.matrix(labels.length, pixels);
    between.values.forEach((_, i, values) => {
      const t = times[Math.floor(i / pixels)];
      values[i] = (1 - t) * noise[i] + t * images[i];
    });
    const [v, back] = velocities(model, between, times, labels, learns);
    let squares = 0;
    v.values.forEach((value, i, values) => {
      const miss = value - (images[i] - noise[i]);
      squares += miss * miss;
      values[i] = (2 * miss) / values.length; // v now is dv
    });
    if (learns) back(v);
    return squares / v.values.length;
  });
}

// Endless batches, as the package's flow_batches: of `pictures`, a list of size² numbers each, drawn at random and moved by
// up to `shift` pixels each way, with noise and with times, which are the sigmoids of normal numbers.
export function* flowBatches(pictures, labels, { batch, seed, shift, size }) {
  const random = new Random(seed);
  const below = (count) => Array.from({ length: batch }, () => random.below(count));
  for (;;) {
    const chosen = below(pictures.length);
    const [down, right] = [below(2 * shift + 1), below(2 * shift + 1)];
    const images = new Float32Array(batch * size * size);
    chosen.forEach((one, i) => images.set(moved(pictures[one], down[i] - shift, right[i] - shift, size), i * size * size));
    const noise = random.normal(images.length);
    const times = random.normal(batch).map((value) => 1 / (1 + Math.exp(-value)));
    yield { images, labels: chosen.map((one) => labels[one]), noise, times };
  }
}

// The pixels `down` and `right` of each; outside of the picture they are as its first.
function moved(picture, down, right, size) {
  const inside = (place) => place >= 0 && place < size;
  return picture.map((_, i) => {
    const [row, column] = [Math.floor(i / size) + down, (i % size) + right];
    return inside(row) && inside(column) ? picture[row * size + column] : picture[0];
  });
}

// The pictures (labels, size²) of `labels` that the model draws in `steps` from `noise`, as many numbers.
export function draw(model, labels, noise, steps) {
  const x = noise.slice();
  for (let step = 0; step < steps; step++) eulerStep(model, x, labels, step / steps, 1 / steps);
  return x;
}

function eulerStep(model, x, labels, time, length) {
  model.memory.release(() => {
    const pictures = model.memory.matrix(labels.length, x.length / labels.length);
    pictures.values.set(x);
    const v = velocities(model, pictures, labels.map(() => time), labels, false)[0].values;
    for (let i = 0; i < x.length; i++) x[i] += length * v[i];
  });
}
