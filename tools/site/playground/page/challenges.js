// Things to try: guess first, then train; a finished run says how the guess was.

/* global element, make */

// A run is { settings, trained, points: [{ steps, task, austen }, …], last, first, failed, spectrum }.
const numbers = (value) => value.toLocaleString("en");
const onJargon = (run) => run.settings.task === "jargon";

export const CHALLENGES = [
  {
    title: "As few numbers as possible",
    task: "Bring the Jargon File’s perplexity to 90 or below, from 193. How few trained numbers does it take?",
    guesses: ["fewer than 5,000", "5,000 to 20,000", "20,000 to 100,000", "more than 100,000"],
    verdict(runs) {
      const enough = runs.filter((run) => onJargon(run) && run.last.task <= 90);
      if (!enough.length) return undefined;
      const best = Math.min(...enough.map((run) => run.trained));
      const place = [5000, 20000, 100000].findIndex((limit) => best < limit);
      return [place < 0 ? 3 : place, `Your best so far: ${numbers(best)} numbers. Can you do it with fewer?`];
    },
  },
  {
    title: "Learn, and keep Austen",
    task: "Bring the Jargon File to 90 or below while Austen, from 25, stays at 37 or below. What helps?",
    guesses: ["a lower rate and a higher rank", "a higher rate and fewer steps", "nothing: one always pays"],
    verdict(runs) {
      const kept = runs.filter((run) => onJargon(run) && run.last.task <= 90 && run.last.austen <= 37);
      if (!kept.length) return undefined;
      const { settings, last } = kept.at(-1);
      const found = `Jargon ${last.task.toFixed(1)}, Austen ${last.austen.toFixed(1)} at rate ${settings.rate}, ${settings.steps} steps.`;
      return [undefined, `Done. ${found} Compare with your guess.`];
    },
  },
  {
    title: "The rate that ruins",
    task: "LoRA of rank 4, α 8, on all linear layers, 60 steps: which is the lowest rate that leaves the model worse than it was?",
    guesses: ["0.01 or lower", "0.03", "0.1", "0.3 or higher"],
    verdict(runs) {
      const usual = ({ settings: { method, rank, alpha, targets, steps } }) =>
        method === "lora" && rank === 4 && alpha === 8 && targets === "all" && steps === 60;
      const ruined = runs.filter((run) => onJargon(run) && usual(run) && (run.failed || run.last.task > run.first.task));
      if (!ruined.length) return undefined;
      const rate = Math.min(...ruined.map((run) => run.settings.rate));
      const place = [0.01, 0.03, 0.1, Infinity].findIndex((limit) => rate <= limit);
      return [place, `${rate} ruins it. Does a lower one, too?`];
    },
  },
  {
    title: "How much rank was used?",
    task: "Train with rank 32 or more. How many directions carry 90 % of ‖ΔW‖² in the layer that you look at?",
    guesses: ["1 or 2", "3 to 8", "9 to 24", "more than 24"],
    verdict(runs) {
      const wide = runs.filter(({ settings, spectrum }) => settings.method === "lora" && settings.rank >= 32 && spectrum?.[0]);
      if (!wide.length) return undefined;
      const squares = wide.at(-1).spectrum.map((value) => value ** 2);
      const all = squares.reduce((sum, square) => sum + square, 0);
      let carried = 0;
      const needed = 1 + squares.findIndex((square) => (carried += square) >= 0.9 * all);
      const place = [2, 8, 24].findIndex((limit) => needed <= limit);
      return [place < 0 ? 3 : place, `${needed} of ${squares.length} directions. A rank of about ${needed} was enough there.`];
    },
  },
];

// The cards in `parent`. `judge(runs)` looks at the finished runs.
export function challenges(parent) {
  const cards = CHALLENGES.map(({ title, task, guesses, verdict }, place) => {
    const card = make("section", parent, { className: "peft-theme peft-box challenge" });
    make("h3", card, { textContent: title });
    make("p", card, { textContent: task });
    const label = make("label", card, { textContent: "Your guess " });
    const select = make("select", label);
    select.id = `guess-${place}`;
    ["…", ...guesses].forEach((words) => make("option", select, { textContent: words }));
    const said = make("p", card, { className: "said" });
    said.setAttribute("role", "status");
    return (runs) => {
      const found = verdict(runs);
      if (!found) return;
      const [right, words] = found;
      const guess = select.selectedIndex - 1;
      const sign = guess < 0 || right === undefined ? "" : guess === right ? "✔ As you guessed. " : "✘ Not as you guessed. ";
      said.textContent = sign + words;
    };
  });
  return { judge: (runs) => cards.forEach((judge) => judge(runs)) };
}
