// What one thread of a graphics processor does of each operation, in its language, WGSL (W3C).
//
// All threads see the same `numbers`, laid out as the page's memory, and `inputs`, which are new at each step. What a call
// gives beside them is in `p`: places and counts, and f32 where the name says so.

// One thread for each i below `count`.
const each = (fields, body) => ({
  fields,
  threads: "64",
  body: `let i = at.x;
  if (i >= p.count) { return; }
  ${body}`,
});

// One workgroup sums up `count` terms: each thread its share, then half of them what the other half has, and so on.
const sum = (fields, term) => ({
  fields,
  threads: "256",
  shared: "var<workgroup> sums: array<f32, 256>;",
  body: `var mine = 0.0;
  for (var i = own.x; i < p.count; i += 256u) { mine += ${term}; }
  sums[own.x] = mine;
  for (var half = 128u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (own.x < half) { sums[own.x] += sums[own.x + half]; }
  }
  if (own.x == 0u) { numbers[p.y] = p.factor * sums[0]; }`,
});

export const KERNELS = {
  copy: each("y x count", "numbers[p.y + i] = numbers[p.x + i];"),
  add: each("y x count", "numbers[p.y + i] += numbers[p.x + i];"),
  scale: each("x count factor:f32", "numbers[p.x + i] *= p.factor;"),

  embed: each(
    "x table ids columns count",
    `let id = u32(inputs[p.ids + i / p.columns]);
  numbers[p.x + i] = numbers[p.table + id * p.columns + i % p.columns];`,
  ),

  embedBack: each(
    "table dx ids columns rows count",
    `let id = f32(i / p.columns);
  var sum = numbers[p.table + i];
  for (var row = 0u; row < p.rows; row++) {
    if (inputs[p.ids + row] == id) { sum += numbers[p.dx + row * p.columns + i % p.columns]; }
  }
  numbers[p.table + i] = sum;`,
  ),

  turn: each(
    "x cos sin length d columns count direction:f32",
    `let half = p.d / 2u;
  let row = i / (p.columns / 2u);
  let pair = i % (p.columns / 2u);
  let first = p.x + row * p.columns + pair / half * p.d + pair % half;
  let angle = row % p.length * half + pair % half;
  let c = numbers[p.cos + angle];
  let s = p.direction * numbers[p.sin + angle];
  let a = numbers[first];
  let b = numbers[first + half];
  numbers[first] = a * c - b * s;
  numbers[first + half] = b * c + a * s;`,
  ),

  rmsNorm: each(
    "y s x gain columns count epsilon:f32",
    `let row = i * p.columns;
  var squares = 0.0;
  for (var j = 0u; j < p.columns; j++) { let x = numbers[p.x + row + j]; squares += x * x; }
  let s = 1.0 / sqrt(squares / f32(p.columns) + p.epsilon);
  numbers[p.s + i] = s;
  for (var j = 0u; j < p.columns; j++) { numbers[p.y + row + j] = numbers[p.gain + j] * numbers[p.x + row + j] * s; }`,
  ),

  rmsNormBack: each(
    "dx dy x gain s columns count",
    `let row = i * p.columns;
  let s = numbers[p.s + i];
  var sum = 0.0; // of u x s: s alone to the third power may be too small for fp32
  for (var j = 0u; j < p.columns; j++) { sum += numbers[p.gain + j] * numbers[p.dy + row + j] * (numbers[p.x + row + j] * s); }
  let along = sum / f32(p.columns);
  for (var j = 0u; j < p.columns; j++) {
    numbers[p.dx + row + j] = s * (numbers[p.gain + j] * numbers[p.dy + row + j] - along * (numbers[p.x + row + j] * s));
  }`,
  ),

  gainBack: each(
    "dg dy x s rows count",
    `var sum = 0.0;
  for (var row = 0u; row < p.rows; row++) {
    sum += numbers[p.dy + row * p.count + i] * numbers[p.x + row * p.count + i] * numbers[p.s + row];
  }
  numbers[p.dg + i] = sum;`,
  ),

  softmax: each(
    "P columns causal count factor:f32",
    `let row = p.P + i * p.columns;
  let seen = select(p.columns, i % p.columns + 1u, p.causal == 1u);
  var largest = numbers[row];
  for (var j = 1u; j < seen; j++) { largest = max(largest, numbers[row + j]); }
  var sum = 0.0;
  for (var j = 0u; j < seen; j++) {
    let power = exp(p.factor * (numbers[row + j] - largest));
    numbers[row + j] = power;
    sum += power;
  }
  for (var j = 0u; j < seen; j++) { numbers[row + j] /= sum; }
  for (var j = seen; j < p.columns; j++) { numbers[row + j] = 0.0; }`,
  ),

  softmaxBack: each(
    "dP P columns count factor:f32",
    `let row = i * p.columns;
  var sum = 0.0;
  for (var j = 0u; j < p.columns; j++) { sum += numbers[p.P + row + j] * numbers[p.dP + row + j]; }
  for (var j = 0u; j < p.columns; j++) {
    numbers[p.dP + row + j] = p.factor * numbers[p.P + row + j] * (numbers[p.dP + row + j] - sum);
  }`,
  ),

  swiglu: each(
    "y sigma a u count",
    `let a = numbers[p.a + i];
  let sigma = 1.0 / (1.0 + exp(min(-a, 64.0)));
  numbers[p.sigma + i] = sigma;
  numbers[p.y + i] = a * sigma * numbers[p.u + i];`,
  ),

  swigluBack: each(
    "dp sigma a u count",
    `let sigma = numbers[p.sigma + i];
  let silu = numbers[p.a + i] * sigma;
  let slope = sigma + silu * (1.0 - sigma);
  numbers[p.sigma + i] = numbers[p.dp + i] * silu;
  numbers[p.dp + i] *= numbers[p.u + i] * slope;`,
  ),

  crossEntropy: each(
    "z losses wanted columns count",
    `let row = p.z + i * p.columns;
  let right = row + u32(inputs[p.wanted + i]);
  var largest = numbers[row];
  for (var j = 1u; j < p.columns; j++) { largest = max(largest, numbers[row + j]); }
  var sum = 0.0;
  for (var j = 0u; j < p.columns; j++) { sum += exp(numbers[row + j] - largest); }
  numbers[p.losses + i] = largest + log(sum) - numbers[right];
  let share = 1.0 / (sum * f32(p.count));
  for (var j = 0u; j < p.columns; j++) { numbers[row + j] = exp(numbers[row + j] - largest) * share; }
  numbers[right] -= 1.0 / f32(p.count);`,
  ),

  total: sum("y x count factor:f32", "numbers[p.x + i]"),
  squares: sum("y x count factor:f32", "numbers[p.x + i] * numbers[p.x + i]"),

  clip: each(
    "x squares count longest:f32",
    "numbers[p.x + i] *= min(1.0, p.longest / (sqrt(numbers[p.squares]) + 1e-6));",
  ),

  // Gradients that are not finite move nothing: the page hears of them only after this. Such a number has all bits of the
  // exponent; comparisons are no help, since WGSL may take all numbers for finite.
  adamw: each(
    "theta g m v sizes squares count beta1:f32 beta2:f32 new1:f32 new2:f32 epsilon:f32",
    `if ((bitcast<u32>(numbers[p.squares]) & 0x7f800000u) == 0x7f800000u) { return; }
  let g = numbers[p.g + i];
  let m = p.beta1 * numbers[p.m + i] + p.new1 * g;
  let v = p.beta2 * numbers[p.v + i] + p.new2 * g * g;
  numbers[p.m + i] = m;
  numbers[p.v + i] = v;
  numbers[p.theta + i] -= inputs[p.sizes] * m / (sqrt(v) / inputs[p.sizes + 1u] + p.epsilon);`,
  ),

  // C = A B, or C + A B, of one matrix of a stack: each thread makes four rows by four columns of C, whose sums it holds.
  // Threads side by side read the same rows and columns, which the processor's cache has then. For rows and columns beyond
  // the edge they read the last ones, and write nothing.
  multiply: {
    fields: `c cDown a aDown aRight b bDown bRight rows columns inner add second
      cJump cJump2 aJump aJump2 bJump bJump2`,
    threads: "8, 8",
    body: `let one = at.z / p.second;
  let two = at.z % p.second;
  let c = p.c + one * p.cJump + two * p.cJump2;
  let row = at.y * 4u;
  let column = at.x * 4u;
  if (row >= p.rows || column >= p.columns) { return; }
  let rows = min(row + vec4(0u, 1u, 2u, 3u), vec4(p.rows - 1u));
  let columns = min(column + vec4(0u, 1u, 2u, 3u), vec4(p.columns - 1u));
  var a = p.a + one * p.aJump + two * p.aJump2 + rows * p.aDown;
  var b = p.b + one * p.bJump + two * p.bJump2 + columns * p.bRight;
  var sums = mat4x4<f32>();
  for (var k = 0u; k < p.inner; k++) {
    let x = vec4(numbers[a.x], numbers[a.y], numbers[a.z], numbers[a.w]);
    let y = vec4(numbers[b.x], numbers[b.y], numbers[b.z], numbers[b.w]);
    sums += mat4x4(x.x * y, x.y * y, x.z * y, x.w * y);
    a += p.aRight;
    b += p.bDown;
  }
  var made = sums; // so that a compiler may keep the sums themselves in registers
  for (var i = 0u; i < min(4u, p.rows - row); i++) {
    for (var j = 0u; j < min(4u, p.columns - column); j++) {
      let place = c + (row + i) * p.cDown + column + j;
      numbers[place] = made[i][j] + select(0.0, numbers[place], p.add == 1u);
    }
  }`,
  },
};

const typed = (field) => (field.includes(":") ? field.split(":") : [field, "u32"]);

// The fields of a kernel as [name, type].
export const fieldsOf = ({ fields }) => fields.split(/\s+/).map(typed);

export const shader = (kernel) => `struct Given { ${fieldsOf(kernel).map((field) => field.join(": ")).join(", ")} }
@group(0) @binding(0) var<storage, read_write> numbers: array<f32>;
@group(0) @binding(1) var<storage, read> inputs: array<f32>;
@group(0) @binding(2) var<uniform> p: Given;
${kernel.shared ?? ""}
@compute @workgroup_size(${kernel.threads})
fn main(
  @builtin(global_invocation_id) at: vec3<u32>,
  @builtin(local_invocation_id) own: vec3<u32>,
  @builtin(workgroup_id) group: vec3<u32>,
) {
  ${kernel.body}
}`;
