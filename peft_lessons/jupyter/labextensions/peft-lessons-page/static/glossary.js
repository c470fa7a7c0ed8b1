// The glossary on a page: the first place where a lesson uses a term shows the term's meaning on hover, focus and tap.
// JupyterLab's page.js and the site load this file. Terms are `{name, forms, meaning}`.

const ELSEWHERE = "a, button, code, pre, h1, h2, h3, h4, summary, mjx-container, .MathJax, .math, .peft-term";

// Longest forms first, so that "gradient checkpointing" is not taken for "gradient".
export function finder(terms) {
  const meanings = new Map(
    terms.flatMap((term) => [term.name, ...term.forms].map((form) => [form.toLowerCase(), term])),
  );
  const forms = [...meanings.keys()].sort((a, b) => b.length - a.length);
  const escaped = forms.map((form) => form.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replaceAll(" ", "\\s+"));
  const pattern = new RegExp(`(?<![\\w-])(?:${escaped.join("|")})(?![\\w-])`, "gi");
  const termOf = (text) => meanings.get(text.toLowerCase().replace(/\s+/g, " "));
  return { pattern, termOf };
}

// Mark in `root` the first place of each term that `wanted` accepts; returns the marked terms.
export function mark(root, { pattern, termOf }, wanted) {
  const marked = new Set();
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) if (!walker.currentNode.parentElement.closest(ELSEWHERE)) texts.push(walker.currentNode);
  for (const text of texts) {
    const firsts = [...text.data.matchAll(pattern)].filter(([form]) => {
      const term = termOf(form);
      return !marked.has(term) && wanted(term) && marked.add(term);
    });
    for (const { 0: form, index } of firsts.reverse()) {
      const word = text.splitText(index);
      word.splitText(form.length);
      const { meaning } = termOf(form);
      const span = Object.assign(document.createElement("span"), { className: "peft-term", tabIndex: 0 });
      span.setAttribute("role", "note");
      span.setAttribute("aria-label", `${form}: ${meaning}`);
      span.dataset.meaning = meaning;
      word.replaceWith(span);
      span.append(word);
    }
  }
  return marked;
}

// One bubble for the page: it lies above everything, so that no cell cuts it off.
export function showMeanings(page = document) {
  const bubble = page.createElement("div");
  bubble.className = "peft-meaning";
  bubble.hidden = true;
  bubble.setAttribute("aria-hidden", "true"); // the term's label says it already
  page.body.append(bubble);
  const show = ({ target }) => {
    const term = target.closest?.(".peft-term");
    bubble.hidden = !term;
    if (!term) return;
    bubble.textContent = term.dataset.meaning;
    const [word, box] = [term.getBoundingClientRect(), bubble.getBoundingClientRect()];
    const right = page.documentElement.clientWidth - box.width - 8;
    const above = word.top - box.height - 6;
    bubble.style.left = `${Math.max(8, Math.min(word.left, right))}px`;
    bubble.style.top = `${above > 8 ? above : word.bottom + 6}px`;
  };
  const hide = () => (bubble.hidden = true);
  for (const event of ["pointerover", "focusin", "click"]) page.addEventListener(event, show);
  page.addEventListener("scroll", hide, true);
  page.addEventListener("keydown", ({ key }) => key === "Escape" && hide());
}
