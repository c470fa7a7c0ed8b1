// Drawings in SVG: lines over two axes, in the colours of the page.

/* global element */

const [WIDTH, HEIGHT] = [420, 260];
const MARGIN = { left: 54, right: 14, top: 12, bottom: 40 };

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// `draw(series, words)` shows series of { points: [[x, y], …], kind, dots }, where kind is "now" or "ghost"; `words` say
// the same to those who do not see it.
export function plot(parent, { title, x, y }) {
  const figure = element("figure", { className: "plot" }, element("h3", { textContent: title }));
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  figure.append(drawing);
  parent.append(figure);

  function draw(series, words) {
    drawing.setAttribute("aria-label", `${title}. ${words}`);
    const points = series.flatMap((one) => one.points).filter(([, value]) => Number.isFinite(value));
    const axes = [x, y].map((axis, place) => scale(axis, points.map((point) => point[place]), place));
    const [px, py] = axes.map(({ at }) => at);
    drawing.replaceChildren(
      ...axes.flatMap((axis) => axis.parts),
      ...series.flatMap(({ points: given, kind, dots }) => {
        const shown = given.filter(([, value]) => Number.isFinite(value)).map(([a, b]) => [px(a), py(b)]);
        if (!shown.length) return [];
        const line = svg("polyline", { class: kind, points: shown.map((point) => point.join()).join(" ") });
        const marks = dots ? shown.map(([cx, cy], i) => svg("circle", { class: kind, cx, cy, r: i < shown.length - 1 ? 2 : 5 })) : [];
        return [line, ...marks];
      }),
    );
  }
  draw([], "Nothing has been trained yet.");
  return draw;
}

// Where values of an axis lie, and its ticks and name; place 0 is the horizontal one.
function scale({ name, log, most }, values, place) {
  let [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [1, 10];
  if (most) high = Math.max(high, most());
  if (log) [low, high] = [low / 1.05, high * 1.05];
  else if (high === low) [low, high] = [low - 1, high + 1];
  const through = log ? Math.log : (value) => value;
  const [from, to] = place ? [HEIGHT - MARGIN.bottom, MARGIN.top] : [MARGIN.left, WIDTH - MARGIN.right];
  const at = (value) => from + ((to - from) * (through(value) - through(low))) / (through(high) - through(low));
  const ticks = (log && high > 3 * low ? logTicks : plainTicks)(low, high);
  const parts = ticks.flatMap((tick) => {
    const p = at(tick);
    return place
      ? [line(MARGIN.left, p, WIDTH - MARGIN.right, p), text(MARGIN.left - 6, p + 4, short(tick), "end")]
      : [line(p, MARGIN.top, p, HEIGHT - MARGIN.bottom), text(p, HEIGHT - MARGIN.bottom + 16, short(tick), "middle")];
  });
  const middle = (MARGIN.top + HEIGHT - MARGIN.bottom) / 2;
  const label = place
    ? text(0, 0, name, "middle", { transform: `translate(12 ${middle}) rotate(-90)` })
    : text((MARGIN.left + WIDTH - MARGIN.right) / 2, HEIGHT - 6, name, "middle");
  return { at, parts: [...parts, label] };
}

const line = (x1, y1, x2, y2) => svg("line", { class: "grid", x1, y1, x2, y2 });
const text = (x, y, words, anchor, more = {}) => svg("text", { x, y, "text-anchor": anchor, ...more }, words);
const short = (value) =>
  value && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e5) ? value.toExponential(0) : String(Number(value.toPrecision(3)));

function plainTicks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

function logTicks(low, high) {
  const ticks = [];
  const decades = Math.log10(high / low);
  const factors = decades > 3 ? [1] : decades > 1 ? [1, 3] : [1, 1.5, 2, 3, 4, 5, 7];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const factor of factors) if (factor * 10 ** power >= low && factor * 10 ** power <= high) ticks.push(factor * 10 ** power);
  const every = decades > 6 ? Math.ceil(decades / 6) : 1;
  return ticks.filter((_, i) => i % every === 0);
}
