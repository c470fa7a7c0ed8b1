// Strokes of a pen become a picture as the letters of typefaces did (tools/artifacts/make_letters.py): at one scale, on
// one baseline, the ink in the horizontal middle, in 16 greys.
//
// A stroke is a list of points [x, y] on a square whose side is SIDE; y grows downwards. Only sums, products and
// comparisons are made of them, so that every browser computes the same picture.

export const SIZE = 32; // pixels along a side of a picture
export const SIDE = 512; // of the square on which strokes are drawn
export const PIXEL = SIDE / SIZE;
export const BASELINE = 23; // pixels above it

const GREYS = 15; // ink; paper is 0
const FINER = 8; // samples along a side of a pixel
const PARTS = 8; // straight ones of which each curve is made

const middle = ([ax, ay], [bx, by]) => [(ax + bx) / 2, (ay + by) / 2];

// The curve of a stroke as a polyline: parabolas from middle to middle of neighbouring points, which they lean towards.
export function smoothed(points) {
  const last = points.length - 1;
  if (last < 2) return points;
  const line = [points[0]];
  for (let i = 1; i < last; i++) {
    const from = line.at(-1);
    const to = i === last - 1 ? points[last] : middle(points[i], points[i + 1]);
    for (let part = 1; part <= PARTS; part++) {
      const t = part / PARTS;
      const [a, b, c] = [(1 - t) * (1 - t), 2 * t * (1 - t), t * t];
      line.push([0, 1].map((axis) => a * from[axis] + b * points[i][axis] + c * to[axis]));
    }
  }
  return line;
}

// How much of each pixel is inked, from 0 to 1, row by row, by a round pen of this width.
export function coverage(strokes, pen) {
  const lines = strokes.map(smoothed);
  const xs = lines.flat().map(([x]) => x);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const scale = (SIZE * FINER) / SIDE; // samples a unit
  const place = ([x, y]) => [(x + (SIDE - left - right) / 2) * scale, y * scale];
  const samples = new Uint8Array((SIZE * FINER) ** 2);
  for (const line of lines) {
    const [first, ...rest] = line.map(place);
    let from = first;
    for (const to of rest.length ? rest : [first]) {
      ink(samples, from, to, (pen / 2) * scale);
      from = to;
    }
  }
  const pixels = new Float64Array(SIZE * SIZE);
  samples.forEach((inked, at) => {
    const [row, column] = [Math.floor(at / (SIZE * FINER)), at % (SIZE * FINER)];
    pixels[Math.floor(row / FINER) * SIZE + Math.floor(column / FINER)] += inked / FINER ** 2;
  });
  return pixels;
}

// Marks the samples whose middle is no farther than `radius` from the straight line between two points.
function ink(samples, [ax, ay], [bx, by], radius) {
  const side = SIZE * FINER;
  const within = (a, b) => [Math.max(0, Math.floor(Math.min(a, b) - radius)), Math.min(side, Math.ceil(Math.max(a, b) + radius))];
  const [[left, right], [top, bottom]] = [within(ax, bx), within(ay, by)];
  const [dx, dy] = [bx - ax, by - ay];
  const length = dx * dx + dy * dy;
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      const [x, y] = [column + 0.5 - ax, row + 0.5 - ay];
      const along = length ? Math.min(1, Math.max(0, (x * dx + y * dy) / length)) : 0;
      if ((x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius * radius) samples[row * side + column] = 1;
    }
  }
}

// The picture as a hexadecimal digit a pixel, row by row: 0 is paper, f is ink.
export const picture = (strokes, pen) =>
  Array.from(coverage(strokes, pen), (inked) => Math.round(GREYS * inked).toString(16)).join("");
