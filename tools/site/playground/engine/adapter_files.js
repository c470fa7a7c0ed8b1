// An adapter as Hugging Face peft keeps it: adapter_config.json, and adapter_model.safetensors with A and B of each layer.

import { LINEARS } from "./model.js";
import { readSafetensors, writeSafetensors } from "./safetensors.js";

export const CONFIG_FILE = "adapter_config.json";
export const WEIGHTS_FILE = "adapter_model.safetensors";
const MATRICES = { A: "lora_A", B: "lora_B" };

const nameOf = (module, matrix) => `base_model.model.${module}.${MATRICES[matrix]}.weight`;

// `task` is what peft calls the task of a model, or null.
export function writeAdapter(model, { rank, alpha, targets }, task) {
  const settings = {
    peft_type: "LORA",
    r: rank,
    lora_alpha: alpha,
    lora_dropout: 0.0,
    use_rslora: false,
    target_modules: targets,
    bias: "none",
    fan_in_fan_out: false,
    task_type: task,
    base_model_name_or_path: null,
    inference_mode: true,
  };
  const tensors = model.linears
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

// What the two files hold, { settings, tensors }, where it fits the tensors of `base`. Throws an Error that says what does
// not.
export function readAdapter(text, buffer, base) {
  const settings = readSettings(text);
  const tensors = readSafetensors(buffer);
  const shapes = new Map(
    [...base]
      .map(([name, { shape }]) => [name.replace(/\.weight$/, ""), shape])
      .filter(([module]) => settings.targets.includes(module.split(".").at(-1)))
      .flatMap(([module, [rows, columns]]) => [
        [nameOf(module, "A"), [settings.rank, columns]],
        [nameOf(module, "B"), [rows, settings.rank]],
      ]),
  );
  const problems = [...shapes].flatMap(([name, shape]) => {
    const found = tensors.get(name);
    if (!found) return [`${name} is missing`];
    if (String(found.shape) !== String(shape))
      return [`${name} is ${found.shape.join(" × ")}, and the settings and this model need ${shape.join(" × ")}`];
    return found.values.every(Number.isFinite) ? [] : [`${name} holds numbers that are not finite`];
  });
  problems.push(...[...tensors.keys()].filter((name) => !shapes.has(name)).map((name) => `${name} has no place here`));
  if (problems.length)
    throw new Error(problems.slice(0, 3).join("; ") + (problems.length > 3 ? `; and ${problems.length - 3} more` : ""));
  return { settings, tensors };
}

// Puts the tensors of a file that fits into the model's A and B.
export function fillAdapter(model, tensors) {
  for (const layer of model.linears.filter(({ A }) => A))
    for (const matrix of Object.keys(MATRICES))
      layer[matrix].value.values.set(tensors.get(nameOf(layer.module, matrix)).values);
}

// The knobs that a config file stands for.
function readSettings(text) {
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
