// Text, token by token: the decoder for one token at a time, with the keys and values of those before it kept.
//
// The adapter is merged in at any strength s: W + s ΔW, where s = 0 is the base and s = 1 what was trained.

import { delta } from "./linear.js";
import { LINEARS, allWeights } from "./model.js";
import { Random } from "./random.js";
import { rotaryAngles, rotate } from "./rotary.js";

// All weights by name, as `model` has them at `strength`; `base` gives those before training by name.
export function weightsAt(model, strength, base) {
  const weights = new Map(allWeights(model).map(({ name, value }) => [name, value.values.slice()]));
  for (const { name, gradient, value } of allWeights(model))
    if (gradient) mix(weights.get(name), base(name), value.values, strength);
  for (const layer of model.linears.filter(({ A }) => A))
    model.memory.release(() => {
      const [w, d] = [weights.get(layer.W.name), delta(layer).values];
      for (let i = 0; i < w.length; i++) w[i] += strength * d[i];
    });
  return weights;
}

function mix(into, before, after, strength) {
  for (let i = 0; i < into.length; i++) into[i] = before[i] + strength * (after[i] - before[i]);
}

// The tokens after `prompt` (ids), at most `count`, up to and without the one that ends a text.
export function* generate(weights, config, prompt, { count, temperature = 0, seed = 0 }) {
  const random = new Random(seed);
  const reader = new Reader(weights, config, Math.min(prompt.length + count, config.max_position_embeddings));
  let logits;
  for (const id of prompt) logits = reader.read(id);
  for (let made = 0; made < count && reader.position <= reader.longest; made++) {
    const id = choose(logits, temperature, random);
    if (id === config.eos_token_id) return;
    yield id;
    if (reader.position === reader.longest) return;
    logits = reader.read(id);
  }
}

// The likeliest, or one drawn from softmax(logits / temperature).
function choose(logits, temperature, random) {
  const best = logits.reduce((found, value, id) => (value > logits[found] ? id : found), 0);
  if (!temperature) return best;
  const shares = logits.map((value) => Math.exp((value - logits[best]) / temperature));
  let left = random.share() * shares.reduce((sum, share) => sum + share, 0);
  const drawn = shares.findIndex((share) => (left -= share) < 0);
  return drawn < 0 ? best : drawn;
}

class Reader {
  constructor(weights, config, longest) {
    Object.assign(this, { weights, config, longest, position: 0 });
    this.d = config.hidden_size / config.num_attention_heads;
    this.angles = rotaryAngles(longest, this.d, config.rope_theta);
    const width = this.d * config.num_key_value_heads;
    this.cache = Array.from({ length: config.num_hidden_layers }, () => ({
      keys: new Float32Array(longest * width),
      values: new Float32Array(longest * width),
    }));
  }

  // The logits of what follows `id`.
  read(id) {
    const { weights, config } = this;
    const table = weights.get("model.embed_tokens.weight");
    let x = table.slice(id * config.hidden_size, (id + 1) * config.hidden_size);
    for (let layer = 0; layer < config.num_hidden_layers; layer++) {
      const norm = (name, y) => this.rmsNorm(y, `model.layers.${layer}.${name}.weight`);
      const linear = (name, y) => product(weights.get(`model.layers.${layer}.${LINEARS[name]}.${name}.weight`), y);
      const n = norm("input_layernorm", x);
      x = sum(x, linear("o_proj", this.attend(layer, ...["q_proj", "k_proj", "v_proj"].map((name) => linear(name, n)))));
      const n2 = norm("post_attention_layernorm", x);
      const [gate, up] = [linear("gate_proj", n2), linear("up_proj", n2)];
      x = sum(x, linear("down_proj", gate.map((a, i) => (a / (1 + Math.exp(-a))) * up[i])));
    }
    this.position += 1;
    return product(table, this.rmsNorm(x, "model.norm.weight"));
  }

  attend(layer, q, k, v) {
    const { d, position, config } = this;
    const { keys, values } = this.cache[layer];
    for (const y of [q, k]) rotate({ values: y, rows: 1, columns: y.length }, 1, d, this.angles, 1, position);
    keys.set(k, position * k.length);
    values.set(v, position * v.length);
    const mixed = new Float32Array(q.length);
    const shares = new Float64Array(position + 1);
    for (let head = 0; head < config.num_attention_heads; head++) {
      const group = Math.floor((head * config.num_key_value_heads) / config.num_attention_heads) * d;
      let largest = -Infinity;
      for (let j = 0; j <= position; j++) {
        let score = 0;
        for (let i = 0; i < d; i++) score += q[head * d + i] * keys[j * k.length + group + i];
        largest = Math.max(largest, (shares[j] = score / Math.sqrt(d)));
      }
      let total = 0;
      for (let j = 0; j <= position; j++) total += shares[j] = Math.exp(shares[j] - largest);
      for (let j = 0; j <= position; j++)
        for (let i = 0; i < d; i++) mixed[head * d + i] += (shares[j] / total) * values[j * v.length + group + i];
    }
    return mixed;
  }

  rmsNorm(x, name) {
    const gain = this.weights.get(name);
    const squares = x.reduce((total, value) => total + value * value, 0);
    const scale = 1 / Math.sqrt(squares / x.length + this.config.rms_norm_eps);
    return x.map((value, i) => gain[i] * value * scale);
  }
}

const sum = (x, y) => x.map((value, i) => value + y[i]);

// W x with the rows of W one behind the other, in length a multiple of four: of four sums none waits for the one before.
function product(W, x) {
  const y = new Float32Array(W.length / x.length);
  for (let row = 0, at = 0; row < y.length; row++) {
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let i = 0; i < x.length; i += 4, at += 4) {
      a += W[at] * x[i];
      b += W[at + 1] * x[i + 1];
      c += W[at + 2] * x[i + 2];
      d += W[at + 3] * x[i + 3];
    }
    y[row] = a + b + c + d;
  }
  return y;
}
