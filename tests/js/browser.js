// A simulated browser for one widget: jsdom, a model that behaves like anywidget's, and axe.

import { readFileSync } from "node:fs";
import axe from "axe-core";
import { JSDOM } from "jsdom";

export const data = JSON.parse(readFileSync(process.env.WIDGET_DATA, "utf8"));

export function browser(address = "http://localhost:8888/lab/tree/notebooks/00_start_here.ipynb") {
  const { window } = new JSDOM("<!doctype html><html lang=en><title>t</title><main></main>", {
    url: address,
    pretendToBeVisual: true,
    runScripts: "outside-only",
  });
  const observers = [];
  window.IntersectionObserver = class {
    constructor(callback) {
      this.callback = callback;
      observers.push(this);
    }
    observe(target) {
      this.target = target;
    }
    disconnect() {
      this.target = null;
    }
  };
  // No layout here: a test calls what an element told of its size would call.
  const sized = new Map();
  window.ResizeObserver = class {
    constructor(callback) {
      this.callback = callback;
    }
    observe(target) {
      sized.set(target, (width) => this.callback([{ contentRect: { width } }]));
    }
    disconnect() {
      for (const [target] of sized) sized.delete(target);
    }
  };
  Object.assign(globalThis, {
    window,
    document: window.document,
    location: window.location,
    IntersectionObserver: window.IntersectionObserver,
    CustomEvent: window.CustomEvent,
    ResizeObserver: window.ResizeObserver,
    DOMParser: window.DOMParser,
    Image: window.Image,
  });
  return { window, document: window.document, main: window.document.querySelector("main"), observers, sized };
}

// anywidget's model: `get`, `set`, `save_changes`, `send`, `on`, `off`. `receive` is the kernel's side.
export class Model {
  constructor(state) {
    this.state = structuredClone(state);
    this.pending = {};
    this.saved = [];
    this.sent = [];
    this.listeners = [];
  }
  get(name) {
    return this.state[name];
  }
  set(name, value) {
    this.state[name] = value;
    this.pending[name] = value;
  }
  save_changes() {
    this.saved.push(this.pending);
    this.pending = {};
  }
  send(content) {
    this.sent.push(content);
  }
  on(event, callback) {
    this.listeners.push([event, callback]);
  }
  off(event, callback) {
    this.listeners = this.listeners.filter(([e, c]) => e !== event || c !== callback);
  }
  receive(name, value) {
    this.state[name] = value;
    for (const [event, callback] of this.listeners) if (event === `change:${name}`) callback();
  }
}

// The script as the browser gets it: a module without a place in any package.
export async function load(source) {
  return (await import(`data:text/javascript,${encodeURIComponent(source)}`)).default;
}

// What axe finds in the page. Colour contrast needs a real renderer; it is computed from the style sheet instead.
export async function axeViolations(window) {
  window.eval(axe.source);
  const { violations } = await window.axe.run(window.document, {
    rules: { "color-contrast": { enabled: false }, region: { enabled: false }, "page-has-heading-one": { enabled: false } },
  });
  // Array.from: an array of the window's own realm would equal none of ours.
  return Array.from(violations, ({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
}
