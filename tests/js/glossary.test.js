// Terms of the glossary are marked where they first appear, and say what they mean. data: the script.

import assert from "node:assert/strict";
import { test } from "node:test";
import { browser, data } from "./browser.js";

const { finder, mark, showMeanings } = await import(`data:text/javascript,${encodeURIComponent(data.script)}`);

const TERMS = [
  { name: "gradient", forms: ["gradients"], meaning: "How fast the loss rises." },
  { name: "gradient checkpointing", forms: ["checkpointing"], meaning: "Compute again instead of keeping." },
  { name: "rank", forms: ["ranks"], meaning: "Independent rows." },
];

function page(html) {
  const { window, main } = browser();
  Object.assign(globalThis, { NodeFilter: window.NodeFilter });
  main.innerHTML = html;
  return { window, main, marks: () => [...main.querySelectorAll(".peft-term")].map((node) => node.textContent) };
}

test("each term once, the longest form first, never in code, headings or links", () => {
  const { main, marks } = page(
    "<h2>Ranks</h2><p><code>rank</code> <a>rank</a> Gradient checkpointing, gradients, ranks and rank-one ranks.</p><p>A gradient.</p>",
  );
  const before = main.textContent;
  const marked = mark(main, finder(TERMS), () => true);
  assert.deepEqual(marks(), ["Gradient checkpointing", "gradients", "ranks"]);
  assert.equal(marked.size, 3);
  assert.equal(main.textContent, before);
});

test("only what is wanted is marked", () => {
  const { main, marks } = page("<p>Of gradients and ranks.</p>");
  mark(main, finder(TERMS), ({ name }) => name === "rank");
  assert.deepEqual(marks(), ["ranks"]);
});

test("words that only contain a term stay", () => {
  const { main, marks } = page("<p>Frank ranked low-rank things.</p>");
  mark(main, finder(TERMS), () => true);
  assert.deepEqual(marks(), []);
});

test("pointing, tabbing and tapping show the meaning, Escape and scrolling hide it", () => {
  const { window, main } = page("<p>The rank.</p><p id=other>Else.</p>");
  mark(main, finder(TERMS), () => true);
  showMeanings(window.document);
  const bubble = window.document.querySelector(".peft-meaning");
  const term = main.querySelector(".peft-term");
  for (const event of ["pointerover", "focusin", "click"]) {
    term.dispatchEvent(new window.Event(event, { bubbles: true }));
    assert.equal(bubble.hidden, false);
    assert.equal(bubble.textContent, "Independent rows.");
    main.querySelector("#other").dispatchEvent(new window.Event(event, { bubbles: true }));
    assert.equal(bubble.hidden, true);
  }
  for (const event of [new window.KeyboardEvent("keydown", { key: "Escape" }), new window.Event("scroll")]) {
    term.dispatchEvent(new window.Event("focusin", { bubbles: true }));
    window.document.dispatchEvent(event);
    assert.equal(bubble.hidden, true);
  }
  assert.match(term.getAttribute("aria-label"), /^rank: Independent/);
  assert.equal(term.tabIndex, 0);
});
