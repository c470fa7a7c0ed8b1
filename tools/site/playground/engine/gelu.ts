// GELU in its tanh form (arXiv:1606.08415) and its slope, of `count` numbers, which is a multiple of four:
//
//     gelu(u) = u σ(t)        gelu′(u) = σ(t) + u σ(t) (1 − σ(t)) t′        t = √(8/π) (u + 0.044715 u³)

import { exp } from "./exponential";
import { multiplyAdd } from "./multiply";

const SQUASH: f32 = 1.5957691216;
const CUBIC: f32 = 0.044715;

export function gelu(y: usize, slope: usize, u: usize, count: usize): void {
  const one = f32x4.splat(1);
  for (const end = u + 4 * count; u < end; u += 16, y += 16, slope += 16) {
    const x = v128.load(u), square = f32x4.mul(x, x);
    const t = f32x4.mul(x, multiplyAdd(square, f32x4.splat(SQUASH * CUBIC), f32x4.splat(SQUASH)));
    const sigma = f32x4.div(one, f32x4.add(one, exp(f32x4.neg(t))));
    const g = f32x4.mul(x, sigma);
    const steep = multiplyAdd(square, f32x4.splat(3 * SQUASH * CUBIC), f32x4.splat(SQUASH)); // t′
    v128.store(y, g);
    v128.store(slope, multiplyAdd(f32x4.mul(g, f32x4.sub(one, sigma)), steep, sigma));
  }
}
