const NARROW = 480; // pixels of the page below which the drawing for a phone is used

function render({ model, el }) {
  const [wide, narrow] = ["drawing", "narrow"].map((name) => {
    const parsed = new DOMParser().parseFromString(model.get(name), "image/svg+xml");
    return document.importNode(parsed.documentElement, true);
  });
  const plot = (drawing) => drawing.dataset.plot.split(" ").map(Number);
  const picture = wide.cloneNode(true);
  let lines, marks, fit;
  const use = (drawing) => {
    for (const { name, value } of drawing.attributes) picture.setAttribute(name, value);
    picture.replaceChildren(...drawing.cloneNode(true).childNodes);
    lines = picture.querySelectorAll("[data-series]");
    marks = picture.querySelectorAll("[data-marks]");
    fit = drawing === wide ? (d) => d : fitting(plot(wide), plot(drawing));
  };
  const frame = () => {
    const position = model.get("position");
    const flat = model.get("sliders").reduce((sum, { labels }, place) => sum * labels.length + position[place], 0);
    return model.get("frames")[flat];
  };
  const paint = () => {
    frame().paths.forEach((d, i) => lines[i].setAttribute("d", fit(d)));
    frame().marks.forEach((d, i) => marks[i].setAttribute("d", fit(d)));
    point.move();
  };
  // The points of each series in the drawing, as [x, y, text].
  const points = () =>
    frame().paths.map((d, i) => {
      const prefix = [model.get("series")[i], model.get("x_name")].filter(Boolean).join(", ");
      return corners(fit(d)).map(([x, y], n) => [x, y, `${prefix} ${frame().points[i][n]}`]);
    });
  const point = pointer(picture, points);

  use(wide);
  const readouts = () => frame().readouts;
  const close = sliders({ model, el }, { picture, paint, readouts, news: ["change:position"], delay: 100 });
  picture.after(point.element);
  let shown = wide;
  const sized = new ResizeObserver(([{ contentRect }]) => {
    const drawing = contentRect.width < NARROW ? narrow : wide;
    if (drawing !== shown) use((shown = drawing));
    paint();
  });
  sized.observe(picture.parentElement);
  return () => {
    sized.disconnect();
    close();
  };
}

// Takes a path from one plot's place, [left, right, top, bottom], to another's. What is relative, a marker's shape, stays.
function fitting([left, right, top, bottom], [newLeft, newRight, newTop, newBottom]) {
  const x = (value) => (newLeft + ((value - left) * (newRight - newLeft)) / (right - left)).toFixed(1);
  const y = (value) => (newTop + ((value - top) * (newBottom - newTop)) / (bottom - top)).toFixed(1);
  const move = (_, command, a, b) => command + (command === "V" ? y(a) : x(a)) + (b ? ` ${y(b)}` : "");
  return (d) => d.replace(/([MLHV])(-?[\d.]+)(?: (-?[\d.]+))?/g, move);
}

// The points of a path: ends of its lines and steps, or the middle of each bar's end.
function corners(d) {
  const bar = /M(\S+) \S+?V([^H]+)H([^V]+)V[^Z]+Z/g;
  const line = /[ML](-?[\d.]+) (-?[\d.]+)|H(-?[\d.]+)V(-?[\d.]+)/g;
  if (d.endsWith("Z")) return Array.from(d.matchAll(bar), ([, a, y, b]) => [(Number(a) + Number(b)) / 2, Number(y)]);
  return Array.from(d.matchAll(line), ([, x, y, h, v]) => [Number(x ?? h), Number(y ?? v)]);
}

// A ring around one point, with its words beside it: the one under the mouse, or that to which arrow keys went. One
// stop for the Tab key; for a screen reader it is a slider, whose value is the point's words.
function pointer(picture, points) {
  const element = Object.assign(document.createElement("div"), { className: "peft-point", tabIndex: 0 });
  element.setAttribute("role", "slider");
  element.setAttribute("aria-label", "Points of the picture");
  element.setAttribute("aria-valuemin", "1");
  const words = make("span", element);
  let series = 0, number = 0;

  const move = () => {
    const all = points();
    if (!all[series]?.length) series = Math.max(0, all.findIndex((found) => found.length));
    if (!all[series].length) return;
    number = Math.min(number, all[series].length - 1);
    const [x, y, text] = all[series][number];
    words.textContent = text;
    element.setAttribute("aria-valuemax", String(all[series].length));
    element.setAttribute("aria-valuenow", String(number + 1));
    element.setAttribute("aria-valuetext", text);
    const [width] = picture.getAttribute("viewBox").split(" ").slice(2).map(Number);
    const [here, figure] = [picture, picture.parentElement ?? picture].map((node) => node.getBoundingClientRect());
    const scale = here.width / width;
    element.style.left = `${here.left - figure.left + x * scale}px`;
    element.style.top = `${here.top - figure.top + y * scale}px`;
    element.classList.toggle("peft-leftwards", x > width / 2);
  };
  const nearest = (found, x, y, upright) => {
    const distances = found.map((point) => Math.hypot(point[0] - x, (point[1] - y) * upright));
    return distances.indexOf(Math.min(...distances));
  };

  picture.addEventListener("pointermove", ({ clientX, clientY }) => {
    const here = picture.getBoundingClientRect();
    const scale = here.width / Number(picture.getAttribute("viewBox").split(" ")[2]);
    const [x, y] = [(clientX - here.left) / scale, (clientY - here.top) / scale];
    const all = points();
    const flat = all.flatMap((found, i) => found.map(([x, y], n) => [x, y, i, n]));
    const bars = picture.querySelector("[data-series]").getAttribute("d").endsWith("Z");
    const [, , i, n] = flat[nearest(flat, x, y, bars ? 0.05 : 1)] ?? [0, 0, 0, 0]; // a bar is named all the way down
    [series, number] = [i, n];
    move();
    element.classList.add("peft-shown");
  });
  picture.addEventListener("pointerleave", () => element.classList.remove("peft-shown"));
  element.addEventListener("keydown", (event) => {
    const all = points();
    const [x, y] = all[series][number];
    const last = all[series].length - 1;
    const along = { ArrowLeft: number - 1, ArrowRight: number + 1, Home: 0, End: last }[event.key];
    const across = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (along === undefined && across === undefined) return;
    event.preventDefault();
    if (across) {
      const other = (series + across + all.length) % all.length;
      if (all[other].length) [series, number] = [other, nearest(all[other], x, y, 0)];
    } else {
      number = Math.max(0, Math.min(along, last));
    }
    move();
  });
  return { element, move };
}

export default { render };
