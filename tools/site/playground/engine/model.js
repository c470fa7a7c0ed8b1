// The model as its file has it, made ready to train: LoRA beside some of its linear layers, or all of its weights.

import { fakeQuantize } from "./quantize.js";
import { Random } from "./random.js";
import { rotaryAngles } from "./rotary.js";

const NORMS = ["input_layernorm", "post_attention_layernorm"];
// Where each lies in a block.
export const LINEARS = {
  q_proj: "self_attn",
  k_proj: "self_attn",
  v_proj: "self_attn",
  o_proj: "self_attn",
  gate_proj: "mlp",
  up_proj: "mlp",
  down_proj: "mlp",
};

// `tensors` as readSafetensors gives them, `config` as Hugging Face's config.json.
export function buildModel(memory, config, tensors) {
  const parameter = parametersOf(memory, tensors);
  const layers = Array.from({ length: config.num_hidden_layers }, (_, place) => {
    const path = `model.layers.${place}`;
    const norms = NORMS.map((name) => [name, parameter(`${path}.${name}.weight`)]);
    const linears = Object.entries(LINEARS).map(([name, part]) => {
      const module = `${path}.${part}.${name}`;
      return [name, { name, module, W: parameter(`${module}.weight`) }];
    });
    return Object.fromEntries([...norms, ...linears]);
  });
  const linears = layers.flatMap((layer) => Object.keys(LINEARS).map((name) => layer[name]));
  const [embedding, norm] = ["embed_tokens", "norm"].map((name) => parameter(`model.${name}.weight`));
  return { memory, config, layers, linears, embedding, norm, angles: anglesOf(memory, config) };
}

function anglesOf(memory, { hidden_size: size, num_attention_heads: heads, max_position_embeddings: longest, rope_theta: theta }) {
  const angles = rotaryAngles(longest, size / heads, theta);
  const inMemory = (values) => {
    const matrix = memory.matrix(longest, values.length / longest);
    matrix.values.set(values);
    return matrix;
  };
  return { cos: inMemory(angles.cos), sin: inMemory(angles.sin) };
}

// Gives by its name a tensor of a file, with room for it in `memory`; a vector becomes a row.
export function parametersOf(memory, tensors) {
  return (name) => {
    const { shape, values } = tensors.get(name);
    const value = memory.matrix(shape.length === 1 ? 1 : shape[0], shape.at(-1));
    value.values.set(values);
    return { name, value };
  };
}

export function allWeights(model) {
  const norms = model.layers.flatMap((layer) => NORMS.map((name) => layer[name]));
  return [model.embedding, ...norms, ...model.linears.map(({ W }) => W), model.norm];
}

export function quantizeBase(model, levels) {
  for (const { W } of model.linears) fakeQuantize(W.value.values, levels);
}

// Puts LoRA beside the linear layers that `targets` names; gives what trains. A starts as Kaiming's uniform with
// a = √5, which is ±1/√in, and B at zero, so that ΔW = 0.
export function injectLora(model, { rank, alpha, targets, seed }) {
  const random = new Random(seed);
  const adapted = targets.flatMap((target) => model.linears.filter(({ name }) => name === target)); // in the package's order
  return adapted.flatMap((layer) => {
    const { rows, columns } = layer.W.value;
    layer.A = trained(model.memory.matrix(rank, columns));
    layer.B = trained(model.memory.zeros(rows, rank));
    layer.scaling = alpha / rank;
    random.fillUniform(layer.A.value.values, 1 / Math.sqrt(columns));
    return [layer.A, layer.B];
  });
}

// All weights train.
export function fullFineTuning(model) {
  return allWeights(model).map((parameter) => Object.assign(parameter, trained(parameter.value)));
}

function trained(value) {
  return { value, gradient: value.memory.zeros(value.rows, value.columns) };
}
