// What hand.js asks of a notebook's model, in a page: what is drawn stays in this browser.

const PLACE = "peft-lessons-hand";
const KEPT = "What you draw stays in this browser.";

// For the letters `asked`; `changed` is called with every stroke.
export function kept(asked, changed) {
  const state = { asked, drawn: { number: 0, letters: stored(asked) }, kept: { number: 0, notice: KEPT } };
  let last = state.drawn.letters; // as they were kept
  const listeners = new Map();
  return {
    comm_live: true,
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    on: (event, react) => listeners.set(event, react),
    off: (event) => listeners.delete(event),
    save_changes() {
      const { number, letters } = state.drawn;
      const notice = keep(last, letters);
      if (notice === KEPT) last = letters;
      state.kept = { number, notice };
      listeners.get("change:kept")();
      changed();
    },
  };
}

function stored(asked) {
  return Object.fromEntries(Object.entries(everything()).filter(([letter, one]) => asked.includes(letter) && possible(one)));
}

function everything() {
  try {
    return JSON.parse(localStorage.getItem(PLACE)) ?? {};
  } catch {
    return {}; // a page from a file may have no storage
  }
}

// Whether it is as hand.js makes it; what is damaged counts as if it were not there.
function possible({ strokes, pen, picture }) {
  const points = strokes.flat();
  return pen > 0 && /^[0-9a-f]{1024}$/.test(picture) && points.length > 0 && points.flat().every(Number.isFinite);
}

// Keeps what is not as it was `before`, beside what another tab has kept since. Gives what the reader should know of it.
function keep(before, letters) {
  const all = everything();
  for (const letter of Object.keys({ ...before, ...letters })) {
    if (JSON.stringify(before[letter]) === JSON.stringify(letters[letter])) continue;
    if (letters[letter]) all[letter] = letters[letter];
    else delete all[letter];
  }
  try {
    localStorage.setItem(PLACE, JSON.stringify(all));
    return KEPT;
  } catch {
    return "This browser keeps what you draw only while the page is open.";
  }
}
