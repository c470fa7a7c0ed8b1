// Letters as pictures: from the digits in which they are stored, onto canvases, and side by side in a line of text.

export const SIZE = 32; // pixels along a side
// As the package's set_text: pixels between letters, words and lines, and what is too faint for ink.
const [GAP, BLANK, LEADING] = [2, 9, 2];
const FAINT = 0.25;

// A hexadecimal digit a pixel: from −1, paper, to 1, ink.
export const fromDigits = (digits) => Float32Array.from(digits, (digit) => parseInt(digit, 16) / 7.5 - 1);

const inked = (value) => Math.min(1, Math.max(0, (value + 1) / 2));

// A canvas with the picture in black on nothing; in the dark, the style sheet turns it white.
export function paint(canvas, picture) {
  const pixels = new ImageData(SIZE, SIZE);
  picture.forEach((value, i) => (pixels.data[4 * i + 3] = 255 * inked(value)));
  Object.assign(canvas, { width: SIZE, height: SIZE }).getContext("2d").putImageData(pixels, 0, 0);
}

// The columns of a picture that have ink, [from, to), or some where none has.
function extent(picture) {
  const columns = Array.from({ length: SIZE }, (_, x) => x).filter((x) =>
    Array.from({ length: SIZE }, (_, y) => inked(picture[y * SIZE + x])).some((ink) => ink > FAINT),
  );
  return columns.length ? [columns[0], columns.at(-1) + 1] : [0, BLANK];
}

// Where each letter of `text` comes, in lines of at most `width` pixels: { height, glyphs: [{ letter, x, line, from, to }] }.
// Words stay whole where they fit; what is not among `pictures` is left out.
export function compose(text, pictures, width) {
  const glyphs = [];
  let [x, line] = [0, 0];
  for (const word of text.split(/\s+/)) {
    const letters = [...word].filter((letter) => pictures[letter]).map((letter) => [letter, ...extent(pictures[letter])]);
    const length = letters.reduce((sum, [, from, to]) => sum + to - from + GAP, -GAP);
    const blank = BLANK - GAP; // behind the gap that each letter leaves
    if (x && x + blank + length > width) [x, line] = [0, line + 1];
    else if (x && letters.length) x += blank;
    for (const [letter, from, to] of letters) {
      if (x + to - from > width) [x, line] = [0, line + 1];
      glyphs.push({ letter, x, line, from, to });
      x += to - from + GAP;
    }
  }
  return { height: (line + 1) * (SIZE + LEADING), glyphs };
}

// Paints a composed text in black; `sheet` has a canvas for each letter.
export function set(context, { glyphs }, sheet, { left = 0, top = 0, scale }) {
  for (const { letter, x, line, from, to } of glyphs) {
    const [wide, down] = [to - from, line * (SIZE + LEADING)];
    context.drawImage(sheet[letter], from, 0, wide, SIZE, left + scale * x, top + scale * down, scale * wide, scale * SIZE);
  }
}
