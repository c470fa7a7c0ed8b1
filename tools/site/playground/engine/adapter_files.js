// An adapter as Hugging Face peft keeps it: adapter_config.json, and adapter_model.safetensors with A and B of each layer.

import { LINEARS, linearLayers } from "./model.js";
import { readSafetensors, writeSafetensors } from "./safetensors.js";

export const CONFIG_FILE = "adapter_config.json";
export const WEIGHTS_FILE = "adapter_model.safetensors";
const MATRICES = { A: "lora_A", B: "lora_B" };

const nameOf = (module, matrix) => `base_model.model.${module}.${MATRICES[matrix]}.weight`;

export function writeAdapter(model, { rank, alpha, targets }) {
  const settings = {
    peft_type: "LORA",
    r: rank,
    lora_alpha: alpha,
    lora_dropout: 0.0,
    use_rslora: false,
    target_modules: targets,
    bias: "none",
    fan_in_fan_out: false,
    task_type: "CAUSAL_LM",
    base_model_name_or_path: null,
    inference_mode: true,
  };
  const tensors = linearLayers(model)
    .filter(({ A }) => A)
    .flatMap((layer) =>
      Object.keys(MATRICES).map((matrix) => {
        const { rows, columns, values } = layer[matrix].value;
        return [nameOf(layer.module, matrix), [rows, columns], values];
      }),
    );
  return { [CONFIG_FILE]: `${JSON.stringify(settings, null, 2)}\n`, [WEIGHTS_FILE]: writeSafetensors(tensors) };
}

// What peft's settings may say beside rank, α and targets, and the one value of each that this page can do.
const PLAIN = {
  bias: "none",
  fan_in_fan_out: false,
  use_dora: false,
  use_rslora: false,
  modules_to_save: null,
  layers_to_transform: null,
  rank_pattern: {},
  alpha_pattern: {},
  trainable_token_indices: null,
  target_parameters: null,
  lora_bias: false,
};

// The knobs that a config file stands for. Throws an Error that says what this page cannot open.
export function readSettings(text) {
  let settings;
  try {
    settings = JSON.parse(text);
  } catch {
    throw new Error(`${CONFIG_FILE} is no JSON`);
  }
  if (settings?.peft_type !== "LORA")
    throw new Error(`the adapter is of the type ${JSON.stringify(settings?.peft_type)}; this page opens "LORA"`);
  for (const [name, plain] of Object.entries(PLAIN)) {
    const given = settings[name] ?? plain;
    if (JSON.stringify(given) !== JSON.stringify(plain))
      throw new Error(`${name} is ${JSON.stringify(given)}; this page opens adapters with ${JSON.stringify(plain)} alone`);
  }
  const { r: rank, lora_alpha: alpha, target_modules: given } = settings;
  if (!Number.isInteger(rank) || rank < 1 || rank > 64) throw new Error(`r is ${rank}; this page opens ranks from 1 to 64`);
  if (!(alpha > 0)) throw new Error(`lora_alpha is ${JSON.stringify(alpha)}; it must be above 0`);
  const targets = given === "all-linear" ? Object.keys(LINEARS) : given;
  const strangers = Array.isArray(targets) ? targets.filter((name) => !LINEARS[name]) : [given];
  if (strangers.length || !targets.length)
    throw new Error(`target_modules are ${JSON.stringify(given)}; this model has ${Object.keys(LINEARS).join(", ")}`);
  return { method: "lora", rank, alpha, targets };
}

// Puts the numbers in the file `buffer` into the model's A and B. All fit, or none is changed and an Error says which.
export function fillAdapter(model, buffer) {
  const tensors = readSafetensors(buffer);
  const places = linearLayers(model)
    .filter(({ A }) => A)
    .flatMap(({ module, A, B }) => [[nameOf(module, "A"), A.value], [nameOf(module, "B"), B.value]]);
  const problems = places.flatMap(([name, { rows, columns }]) => {
    const found = tensors.get(name);
    if (!found) return [`${name} is missing`];
    if (String(found.shape) !== String([rows, columns]))
      return [`${name} is ${found.shape.join(" × ")}, and the settings and this model need ${rows} × ${columns}`];
    return found.values.every(Number.isFinite) ? [] : [`${name} holds numbers that are not finite`];
  });
  const known = new Set(places.map(([name]) => name));
  problems.push(...[...tensors.keys()].filter((name) => !known.has(name)).map((name) => `${name} has no place here`));
  if (problems.length)
    throw new Error(problems.slice(0, 3).join("; ") + (problems.length > 3 ? `; and ${problems.length - 3} more` : ""));
  for (const [name, { values }] of places) values.set(tensors.get(name).values);
}
