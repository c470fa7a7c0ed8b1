// Singular values, in fp64. Those of ΔW = (α/r) B A are those of a small matrix: with B = Q₁ R₁ and Aᵀ = Q₂ R₂ it is
// Q₁ (R₁ R₂ᵀ) Q₂ᵀ, and R₁ R₂ᵀ is r × r. A matrix here is a list of its columns.

const columnsOf = ({ values, rows, columns }) =>
  Array.from({ length: columns }, (_, j) => Float64Array.from({ length: rows }, (_, i) => values[i * columns + j]));
const rowsOf = ({ values, rows, columns }) =>
  Array.from({ length: rows }, (_, i) => Float64Array.from(values.subarray(i * columns, (i + 1) * columns)));

const dot = (x, y, from = 0) => {
  let sum = 0;
  for (let i = from; i < x.length; i++) sum += x[i] * y[i];
  return sum;
};

export function loraSpectrum({ A, B, scaling }) {
  const [R1, R2] = [upperTriangle(columnsOf(B.value)), upperTriangle(rowsOf(A.value))];
  const size = R1.length;
  // Column j of R₁ R₂ᵀ: element (i, j) is the sum over k of R₁[i, k] R₂[j, k].
  const core = R1.map((_, j) =>
    Float64Array.from({ length: size }, (_, i) => R1.reduce((sum, column, k) => sum + column[i] * R2[k][j], 0)),
  );
  return singularValues(core).map((value) => scaling * value);
}

// Of a matrix with at least as many rows as columns, or the other way round.
export function spectrum(matrix) {
  return singularValues(upperTriangle(matrix.rows < matrix.columns ? rowsOf(matrix) : columnsOf(matrix)));
}

// R of the QR decomposition, by Householder's reflections; n columns of length n. `columns` is used up.
function upperTriangle(columns) {
  const n = columns.length;
  columns.forEach((column, k) => {
    const length = Math.sqrt(dot(column, column, k));
    if (!length) return;
    const mirror = column.slice();
    mirror[k] += Math.sign(column[k] || 1) * length;
    const square = dot(mirror, mirror, k);
    for (const other of columns.slice(k)) {
      const factor = (2 * dot(mirror, other, k)) / square;
      for (let i = k; i < other.length; i++) other[i] -= factor * mirror[i];
    }
  });
  return columns.map((column, j) => Float64Array.from({ length: n }, (_, i) => (i <= j ? column[i] : 0)));
}

// One-sided Jacobi (Hestenes 1958): turns pairs of columns until all are orthogonal; their lengths, descending.
function singularValues(columns) {
  for (let sweep = 0, turned = true; turned && sweep < 60; sweep++) {
    turned = false;
    for (let p = 0; p < columns.length; p++)
      for (let q = p + 1; q < columns.length; q++) {
        const [x, y] = [columns[p], columns[q]];
        const [xx, yy, xy] = [dot(x, x), dot(y, y), dot(x, y)];
        if (Math.abs(xy) <= 1e-15 * Math.sqrt(xx * yy)) continue;
        turned = true;
        const zeta = (yy - xx) / (2 * xy);
        const t = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const c = 1 / Math.sqrt(1 + t * t);
        const s = c * t;
        for (let i = 0; i < x.length; i++) [x[i], y[i]] = [c * x[i] - s * y[i], s * x[i] + c * y[i]];
      }
  }
  return columns.map((column) => Math.sqrt(dot(column, column))).sort((a, b) => b - a);
}
