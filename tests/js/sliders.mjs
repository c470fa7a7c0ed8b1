// Runs the front end of a sweep or a live figure in a simulated browser, and prints what it shows after each move.
// In: {"esm", "state", "moves": [[slider, value], …], "from_python": {…}} on standard input. Out: JSON.
import { JSDOM } from "jsdom";
import { readFileSync } from "node:fs";

const { esm, state, moves, from_python: fromPython } = JSON.parse(readFileSync(0, "utf8"));
const { window } = new JSDOM("<body></body>");
const { document } = window;
Object.assign(globalThis, { window, document, DOMParser: window.DOMParser, Image: window.Image });
const blobs = new Set();
let made = 0;
URL.createObjectURL = (blob) => (blobs.add(`blob:${made} ${blob.type} ${blob.size}`), `blob:${made++} ${blob.type} ${blob.size}`);
URL.revokeObjectURL = (url) => blobs.delete(url);

class Model {
  saves = 0;
  handlers = [];
  constructor(state) {
    this.state = state;
  }
  get = (key) => this.state[key];
  on = (event, handler) => this.handlers.push([event, handler]);
  off = (event, handler) => (this.handlers = this.handlers.filter(([e, h]) => e !== event || h !== handler));
  save_changes = () => (this.saves += 1);
  set(key, value) {
    this.state[key] = value;
    this.handlers.filter(([event]) => event === `change:${key}`).forEach(([, handler]) => handler());
  }
}

const { default: widget } = await import(`data:text/javascript,${encodeURIComponent(esm)}`);
const model = new Model(state);
const el = document.body.appendChild(document.createElement("div"));
const cleanUp = widget.render({ model, el });
const inputs = [...el.querySelectorAll("input[type=range]")];

let escaped = 0; // keys that reach the notebook
document.addEventListener("keydown", () => (escaped += 1));

const observe = () => ({
  position: model.get("position"),
  sliders: inputs.map((input) => ({
    name: input.labels[0].textContent,
    value: Number(input.value),
    min: input.min,
    max: input.max,
    text: input.getAttribute("aria-valuetext"),
    beside: input.parentElement.nextElementSibling.textContent,
    disabled: input.disabled,
  })),
  paths: [...el.querySelectorAll("svg [data-series]")].map((path) => path.getAttribute("d")),
  marks: [...el.querySelectorAll("svg [data-marks]")].map((path) => path.getAttribute("d")),
  source: el.querySelector("img")?.getAttribute("src"),
  readouts: [...el.querySelectorAll("[role=status] tr")].map((row) => [...row.cells].map((cell) => cell.textContent)),
});

const start = observe();
const seen = moves.map(([slider, value]) => {
  inputs[slider].dispatchEvent(new window.KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  inputs[slider].value = String(value);
  inputs[slider].dispatchEvent(new window.Event("input", { bubbles: true }));
  return observe();
});
await new Promise((resolve) => setTimeout(resolve, 200));
const saves = model.saves;
for (const [key, value] of Object.entries(fromPython)) model.set(key, value);
const after = observe();
cleanUp();

const svg = el.querySelector("svg");
const img = el.querySelector("img");
console.log(
  JSON.stringify({
    start, seen, saves, after, escaped,
    blobs: blobs.size,
    handlers: model.handlers.length,
    svg: svg && { role: svg.getAttribute("role"), label: svg.getAttribute("aria-label") },
    img: img && { alt: img.alt, width: img.width },
    title: el.querySelector(".peft-title").textContent,
    caption: el.querySelector("figcaption").innerHTML,
    scripts: el.querySelectorAll("script").length,
    texts: [...el.querySelectorAll("svg text")].map((text) => text.textContent),
  }),
);
process.exit(0);
