// What the reader sets. Controls are those of the course's sliders (CONTROLS); a link holds them all: #rank=4&alpha=8…

/* global CONTROLS, make */

const ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"];
const FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"];
export const TARGETS = {
  all: [...ATTENTION, ...FEED_FORWARD],
  attention: ATTENTION,
  "q,v": ["q_proj", "v_proj"],
  mlp: FEED_FORWARD,
};

// Of each knob its name, what kind of control it is, its values and their words. The first start has `usual`.
export const KNOBS = {
  task: { name: "Text", control: "choice", values: ["jargon", "devils", "own"], usual: "jargon" },
  method: { name: "What trains", control: "choice", values: ["lora", "full"], usual: "lora" },
  rank: { name: "Rank r", control: "slider", values: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64], usual: 4 },
  alpha: { name: "α", control: "slider", values: [1, 2, 4, 8, 16, 32, 64, 128], usual: 8 },
  targets: { name: "Where", control: "choice", values: Object.keys(TARGETS), usual: "all" },
  rate: { name: "Learning rate", control: "slider", usual: 0.01 },
  bits: { name: "Base in bits", control: "choice", values: [32, 8, 4, 3, 2], usual: 32 },
  steps: { name: "Steps", control: "slider", values: [20, 40, 60, 100, 200, 400], usual: 60 },
  seed: { name: "Seed", control: "slider", values: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], usual: 0 },
};
KNOBS.rate.values = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1];

export const WORDS = {
  jargon: "Jargon File",
  devils: "Devil’s Dictionary",
  own: "your own",
  lora: "LoRA",
  full: "all weights",
  all: "all linear",
  mlp: "feed-forward",
};
const word = (value) => WORDS[value] ?? String(value);

// The knobs in `form`. `changed` hears of each change; `read()` gives what is set, by name.
export function knobs(form, changed) {
  const set = Object.fromEntries(Object.entries(KNOBS).map(([key, { usual }]) => [key, usual]));
  const rows = Object.entries(KNOBS).map(([key, { name, control, values }], place) => {
    const row = CONTROLS[control](form, name, values.map(word), place, (at) => {
      set[key] = values[at];
      show();
      changed();
    });
    return [key, row];
  });

  const show = () => rows.forEach(([key, row]) => row.show(KNOBS[key].values.indexOf(set[key])));
  const fit = () => rows.forEach(([, row]) => row.fit?.());
  new ResizeObserver(fit).observe(form);
  show();
  return {
    read: () => ({ ...set }),
    write(settings) {
      Object.assign(set, settings);
      show();
      changed();
    },
  };
}

// What a link's part after # says. Throws an Error for what no knob has.
export function settingsOf(hash) {
  const settings = {};
  for (const [key, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    const values = KNOBS[key]?.values;
    if (!values) throw new Error(`the link sets ${key}, and there is no such knob; there are ${Object.keys(KNOBS).join(", ")}`);
    const value = values.find((one) => String(one) === text);
    if (value === undefined) throw new Error(`the link sets ${key} to ${text}; possible are ${values.join(", ")}`);
    settings[key] = value;
  }
  return settings;
}

export const linkOf = (settings) => `#${new URLSearchParams(settings)}`;

// Settings in a few words, for a list of runs.
export function inWords({ task, method, rank, alpha, targets, rate, bits, seed }) {
  const where = Array.isArray(targets) ? targets.map((name) => name.replace("_proj", "")).join(", ") : word(targets);
  const what = method === "full" ? word("full") : `LoRA r ${rank}, α ${alpha}, ${where}`;
  return [word(task), what, `rate ${rate}`, bits < 32 && `base in ${bits} bits`, seed && `seed ${seed}`].filter(Boolean).join(" · ");
}
