// Simulated quantization: each weight becomes the nearest of a few levels, as fractions of its block's largest magnitude.
// The levels are the package's (`normal_codebook`); so is each rounding, and with it every bit of the result.

// `levels` ascend. Changes `values` in place.
export function fakeQuantize(values, levels, blockSize = 64) {
  const middles = levels.slice(1).map((level, i) => Math.fround(Math.fround(level + levels[i]) / 2));
  for (let start = 0; start < values.length; start += blockSize) {
    const block = values.subarray(start, start + blockSize);
    const largest = block.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const inverse = Math.fround(1 / Math.max(largest, 1e-38));
    const whole = block.length === blockSize; // bitsandbytes divides where a block is cut short
    for (let i = 0; i < block.length; i++) {
      const scaled = Math.fround(whole ? block[i] * inverse : block[i] / largest || 0);
      block[i] = levels[below(middles, scaled)] * largest;
    }
  }
}

// How many of `sorted` lie below x.
function below(sorted, x) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}
