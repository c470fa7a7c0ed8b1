// A matrix as a picture, a square for each number: teal below zero, orange above, the page's ground at zero.

/* global element */

// A picture in `parent`; `draw({ rows, columns, values })` paints it. Lying matrices are as wide as the page allows.
export function picture(parent, name) {
  const canvas = element("canvas");
  canvas.setAttribute("role", "img");
  const caption = element("figcaption");
  const figure = element("figure", { className: "matrix", hidden: true }, canvas, caption);
  parent.append(figure);

  return (matrix) => {
    figure.hidden = !matrix;
    if (!matrix) return;
    const { rows, columns, values } = matrix;
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const style = getComputedStyle(figure);
    const [ground, below, above] = ["--surface", "--edge-surface-teal", "--edge-surface-orange"].map((token) =>
      rgb(style.getPropertyValue(token)),
    );
    Object.assign(canvas, { width: columns, height: rows });
    canvas.style.aspectRatio = `${columns} / ${rows}`;
    canvas.style.width = `min(100%, ${Math.max(columns, 3 * Math.min(columns, 40))}px)`;
    canvas.style.height = `${rows < 40 ? 3 * rows : rows}px`;
    const pixels = new ImageData(columns, rows);
    values.forEach((value, i) => {
      const share = largest ? Math.abs(value) / largest : 0;
      const towards = value < 0 ? below : above;
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = ground[c] + share * (towards[c] - ground[c]);
      pixels.data[4 * i + 3] = 255;
    });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    const words = `${name}, ${rows} × ${columns}, from −${largest.toPrecision(2)} to ${largest.toPrecision(2)}`;
    canvas.setAttribute("aria-label", `${words}: teal below zero, orange above`);
    caption.textContent = words;
  };
}

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.trim().slice(at, at + 2), 16));
