// Powers of e: y = exp(factor · (x − shift)) of `count` numbers, one behind the other, in fp32, four at a time. y may be x.
//
// With n = round(t / ln 2) and r = t − n ln 2, which is at most ln 2 / 2 in size,
// eᵗ = 2ⁿ eʳ: a polynomial gives eʳ to the last bit but one, and n is added to its exponent. What is below e⁻⁶⁴ becomes 0,
// and nothing more than e⁶⁴: no sum with 1 feels it. Else products, and 1 / (1 + eᵗ), would be denormal, with which processors
// are a hundred times as slow.
// The coefficients, and ln 2 in two parts, are those of Cephes' expf (Moshier 1992).

import { multiplyAdd } from "./multiply";

export function exponential(y: usize, x: usize, count: usize, factor: f32, shift: f32, room: usize): void {
  const times = f32x4.splat(factor), away = f32x4.splat(shift);
  const end = x + 4 * (count & ~3);
  for (; x < end; x += 16, y += 16) v128.store(y, exp(f32x4.mul(times, f32x4.sub(v128.load(x), away))));
  const rest: usize = 4 * (count & 3);
  if (!rest) return;
  memory.copy(room, x, rest); // what lies behind the last number is not this function's to change
  v128.store(room, exp(f32x4.mul(times, f32x4.sub(v128.load(room), away))));
  memory.copy(y, room, rest);
}

// @ts-ignore: decorator
@inline
export function exp(t: v128): v128 {
  const none = f32x4.lt(t, f32x4.splat(-64));
  t = f32x4.max(f32x4.min(t, f32x4.splat(64)), f32x4.splat(-64));
  const n = f32x4.nearest(f32x4.mul(t, f32x4.splat(1.44269504)));
  const r = multiplyAdd(n, f32x4.splat(2.12194440e-4), multiplyAdd(n, f32x4.splat(-0.693359375), t));
  let p = f32x4.splat(1.9875691500e-4);
  p = multiplyAdd(p, r, f32x4.splat(1.3981999507e-3));
  p = multiplyAdd(p, r, f32x4.splat(8.3334519073e-3));
  p = multiplyAdd(p, r, f32x4.splat(4.1665795894e-2));
  p = multiplyAdd(p, r, f32x4.splat(1.6666665459e-1));
  p = multiplyAdd(p, r, f32x4.splat(5.0000001201e-1));
  p = f32x4.add(multiplyAdd(f32x4.mul(p, r), r, r), f32x4.splat(1));
  return v128.andnot(i32x4.add(p, i32x4.shl(i32x4.trunc_sat_f32x4_s(n), 23)), none);
}
