// Rotary positions (arXiv:2104.09864): each pair of numbers of a query or key is turned by an angle that grows with its
// position, so that products of queries and keys depend on how far they lie apart.

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
