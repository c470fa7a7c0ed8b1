// The Mersenne Twister (Matsumoto & Nishimura 1998), and what torch draws with it: a seed here is the same seed there.

const [SIZE, MIDDLE] = [624, 397];

export class Random {
  constructor(seed) {
    this.state = new Uint32Array(SIZE);
    this.state[0] = seed;
    for (let i = 1; i < SIZE; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, before) + i;
    }
    this.at = SIZE;
  }

  // 32 random bits.
  bits() {
    if (this.at === SIZE) this.twist();
    let y = this.state[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  twist() {
    const { state } = this;
    for (let i = 0; i < SIZE; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + MIDDLE) % SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.at = 0;
  }

  // torch.randint(count, ()) for counts below 2^28
  below(count) {
    return this.bits() % count;
  }

  // Of [0, 1), with fp32's 24 bits, as torch.rand.
  share() {
    return (this.bits() & 0xffffff) / 0x1000000;
  }

  // tensor.uniform_(−bound, bound)
  fillUniform(values, bound) {
    const [low, width] = [Math.fround(-bound), Math.fround(2 * bound)];
    for (let i = 0; i < values.length; i++) values[i] = this.share() * width + low; // rounded once, as by FMA
  }

  // torch.randn(count) for multiples of 16: pairs by Box and Muller (1958), which stand eight apart.
  normal(count) {
    if (count % 16) throw new RangeError(`normal numbers are drawn by sixteen, not ${count}`);
    const values = Float32Array.from({ length: count }, () => this.share());
    for (let at = 0; at < count; at += at % 8 === 7 ? 9 : 1) {
      const radius = Math.sqrt(-2 * Math.log(1 - values[at]));
      const angle = 2 * Math.PI * values[at + 8];
      values[at] = radius * Math.cos(angle);
      values[at + 8] = radius * Math.sin(angle);
    }
    return values;
  }
}

// Endless random windows of `length` ids from one text, `texts` at a time, one behind the other: training.windows.
export function* randomWindows(ids, texts, length, seed) {
  if (ids.length < length) throw new RangeError(`the text has ${ids.length} tokens, too few for windows of ${length}`);
  const random = new Random(seed);
  for (;;) {
    const starts = Array.from({ length: texts }, () => random.below(ids.length - length + 1));
    yield Uint16Array.from(starts.flatMap((start) => [...ids.subarray(start, start + length)]));
  }
}
