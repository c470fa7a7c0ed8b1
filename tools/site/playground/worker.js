// Trains beside the page, which stays free to answer. A message is { what, … }; whatever goes wrong comes back as `failed`.

import { breath } from "./breath.js";
import { readAdapter } from "./engine/adapter_files.js";
import { Fastest } from "./engine/fastest.js";
import { generate } from "./engine/generate.js";
import { Graphics } from "./engine/graphics.js";
import { Memory } from "./engine/memory.js";
import { LINEARS } from "./engine/model.js";
import { Run } from "./engine/run.js";
import { readSafetensors } from "./engine/safetensors.js";
import { Tokenizer } from "./vendor/tokenizers.js";

const HELD_OUT = 1024; // tokens of each text that perplexity is measured on
const EVERY = 10; // steps
const FEWEST = 192; // tokens of a reader's own text: enough for a window to learn from and one to be asked about

let memory, graphics, base, tokenizer, texts, run, fastest, heldOut;
let loop; // what makes one step after the other
let newest; // number of the text that is wanted
let last = Promise.resolve();

const tell = (what, rest = {}) => postMessage({ what, ...rest });
// What reads or changes the run waits until whatever did so before is done.
const inTurn = (act) => {
  const mine = last.then(act);
  last = mine.catch(() => {});
  return mine;
};
const encode = (text) => Uint16Array.from(tokenizer.encode(text, { add_special_tokens: false }).ids);

const answers = {
  async load({ codes, weights, config, levels, vocabulary, ...rest }) {
    memory = await Memory.open(codes);
    Graphics.open(memory).then((found) => (graphics = found), () => {}); // is not waited for, and never required
    base = { config, levels, tensors: readSafetensors(weights) };
    tokenizer = new Tokenizer(vocabulary, { clean_up_tokenization_spaces: false });
    texts = rest.texts;
    tell("loaded", { layers: config.num_hidden_layers, linears: LINEARS });
  },

  // A new run, and what is to follow: "go", "step" or nothing.
  async begin({ settings, ownText, next }) {
    begin(settings, ownText);
    if (next === "step") await step();
  },

  step,

  async inspect({ module }) {
    await settled();
    tell("change", { module, ...run.change(module) });
  },

  async write({ number, prompt, strength, count, temperature, seed }) {
    if (number !== newest) return; // another prompt or strength has been asked for since
    await settled();
    const start = performance.now();
    const weights = run.weightsAt(strength);
    const ids = prompt ? [...encode(prompt)].slice(-base.config.max_position_embeddings / 2) : [base.config.eos_token_id];
    const made = [...generate(weights, base.config, ids, { count, temperature, seed })];
    const text = made.length ? tokenizer.decode(made, { skip_special_tokens: true }) : "";
    tell("text", { number, strength, text: `${prompt}${text}`, tokens: made.length, ms: performance.now() - start });
  },

  async save() {
    await settled();
    tell("files", { files: run.files() });
  },

  open({ settings, config, weights, ownText }) {
    const adapter = readAdapter(config, weights, base.tensors);
    begin({ ...settings, ...adapter.settings }, ownText, adapter.tensors);
  },
};

// Heard at once, whatever waits for its turn.
const controls = {
  async go() {
    if (loop) return;
    const mine = (loop = {});
    while (loop === mine) {
      await inTurn(() => loop === mine && step());
      if (loop !== mine || run.done) break; // a run that could not begin has ended the loop
      await breath();
    }
    if (loop === mine) loop = undefined;
  },

  pause() {
    loop = undefined;
  },
};

function begin(settings, ownText, tensors) {
  const [learn, task] = taskTexts(settings.task, ownText);
  heldOut = { task, austen: Uint16Array.from(texts.austen.slice(0, HELD_OUT)) };
  memory.clear();
  run = new Run(memory, base, settings, learn);
  fastest?.leave();
  fastest = new Fastest(run, () => !graphics?.lost && graphics);
  if (tensors) run.fill(tensors);
  tell("begun", { settings, trained: run.trained, opened: Boolean(tensors) });
  tellPoint();
}

// The ids to learn from, and those of the held-out part, of a task.
function taskTexts(task, ownText) {
  if (task !== "own") return [texts[task].learn, texts[task].held_out.slice(0, HELD_OUT)].map((ids) => Uint16Array.from(ids));
  const ids = encode(ownText);
  if (ids.length < FEWEST)
    throw new Error(`your text has ${ids.length} tokens; it takes at least ${FEWEST}, some ${4 * FEWEST} letters`);
  const kept = Math.min(HELD_OUT, Math.max(64, Math.floor(ids.length / 10)));
  return [ids.subarray(0, -kept), ids.subarray(-kept)];
}

// The run as it is after its last step, wherever that was made.
async function settled() {
  if (!run) throw new Error("there is no run yet: Start begins one");
  await fastest.settle();
}

async function step() {
  if (run.done) return;
  const { onGraphics } = fastest;
  const start = performance.now();
  const loss = await fastest.step();
  tell("step", { steps: run.steps, loss, ms: performance.now() - start, onGraphics });
  if (run.steps % EVERY === 0 || run.done) {
    await fastest.settle();
    tellPoint();
  }
  if (run.done) tell("done");
}

function tellPoint() {
  const perplexities = Object.fromEntries(Object.entries(heldOut).map(([name, ids]) => [name, run.perplexity(ids)]));
  tell("point", { steps: run.steps, ...perplexities });
}

async function hear({ what, ...rest }) {
  if (what === "write") newest = rest.number;
  try {
    const done = what in controls ? controls[what]() : inTurn(() => answers[what](rest));
    if (rest.next === "go") hear({ what: "go" }); // a pause may be heard before the run begins
    await done;
  } catch (error) {
    loop = undefined;
    tell("failed", { during: what, message: error.message });
  }
}
onmessage = ({ data }) => hear(data);
