// What hand.js asks of a notebook's model, in a page: what is drawn stays in this browser.

const PLACE = "peft-lessons-hand";

// For the letters `asked`; `changed` is called with every stroke.
export function kept(asked, changed) {
  const state = { asked, drawn: { number: 0, letters: stored(asked) }, kept: { number: 0, notice: "" } };
  const listeners = new Map();
  return {
    comm_live: true,
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    on: (event, react) => listeners.set(event, react),
    off: (event) => listeners.delete(event),
    save_changes() {
      const { number, letters } = state.drawn;
      state.kept = { number, notice: keep(letters) };
      queueMicrotask(listeners.get("change:kept")); // hand.js waits for an answer once this has returned
      changed();
    },
  };
}

function stored(asked) {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE)) ?? {};
    return Object.fromEntries(Object.entries(found).filter(([letter, one]) => asked.includes(letter) && possible(one)));
  } catch {
    return {}; // a page from a file may have no storage
  }
}

// Whether it is as hand.js makes it; what is damaged counts as if it were not there.
function possible({ strokes, pen, picture }) {
  const points = strokes.flat();
  return pen > 0 && /^[0-9a-f]{1024}$/.test(picture) && points.length > 0 && points.flat().every(Number.isFinite);
}

// Gives what the reader should know of it.
function keep(letters) {
  try {
    localStorage.setItem(PLACE, JSON.stringify(letters));
    return "They stay in this browser.";
  } catch {
    return "This browser keeps them only while the page is open.";
  }
}
