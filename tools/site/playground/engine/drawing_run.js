// One run of the drawing model: LoRA on the linear layers of its blocks, from the pictures of some letters.

import { writeAdapter } from "./adapter_files.js";
import { draw, flowBatches, flowLoss } from "./flow.js";
import { injectLora, parametersOf } from "./model.js";
import { Training } from "./training.js";

const SHIFT = 1; // pixels
// Where each lies in a block.
const LINEARS = { qkv: "attention.", proj: "attention.", up: "mlp.", down: "mlp.", modulation: "" };
const OTHERS = ["patch_in", "time_in", "time_out", "modulation", "patch_out"];
export const TARGETS = Object.keys(LINEARS); // the last layer's modulation as well

export class DrawingRun extends Training {
  // `base` is { config, tensors }; `settings` are { rank, alpha, rate, batch, steps, seed }; `pictures` is a list of size²
  // numbers each, from −1, paper, to 1, ink, and `labels` says which letters they are.
  constructor(memory, base, settings, pictures, labels) {
    const model = buildModel(memory, base.config, base.tensors);
    super(settings, injectLora(model, { ...settings, targets: TARGETS }));
    this.model = model;
    this.batches = flowBatches(pictures, labels, { ...settings, shift: SHIFT, size: base.config.image_size });
  }

  loss() {
    return flowLoss(this.model, this.batches.next().value);
  }

  // As `draw` in flow.js, with so much of what was learnt: 0 is the base, 1 what was trained.
  draw(labels, noise, { strength, steps }) {
    const { linears } = this.model;
    const trained = linears.map(({ scaling }) => scaling);
    for (const layer of linears) layer.scaling *= strength;
    const pictures = draw(this.model, labels, noise, steps);
    linears.forEach((layer, i) => (layer.scaling = trained[i]));
    return pictures;
  }

  files() {
    return writeAdapter(this.model, { ...this.settings, targets: TARGETS }, null);
  }
}

function buildModel(memory, config, tensors) {
  const parameter = parametersOf(memory, tensors);
  const linear = (module) => ({
    module,
    name: module.split(".").at(-1),
    W: parameter(`${module}.weight`),
    bias: parameter(`${module}.bias`),
  });
  const layers = Array.from({ length: config.num_hidden_layers }, (_, place) =>
    Object.fromEntries(Object.entries(LINEARS).map(([name, part]) => [name, linear(`layers.${place}.${part}${name}`)])),
  );
  const others = Object.fromEntries(OTHERS.map((name) => [name, linear(name)]));
  const [positions, labels] = ["positions", "labels.weight"].map(parameter);
  const linears = [...layers.flatMap(Object.values), others.modulation];
  return { memory, config, layers, linears, ...others, positions, labels };
}
