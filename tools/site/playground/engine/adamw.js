// AdamW (arXiv:1711.05101, algorithm 2), without weight decay as the course trains, and what surrounds it: a linear
// warm-up, a cosine to zero, and gradients cut to a total norm.
//
//     m = β₁ m + (1 − β₁) g        v = β₂ v + (1 − β₂) g²
//     θ = θ − η · m / (1 − β₁ᵗ) / (√v / √(1 − β₂ᵗ) + ε)

const [BETA1, BETA2, EPSILON] = [0.9, 0.999, 1e-8];

export class AdamW {
  constructor(parameters) {
    this.parameters = parameters;
    this.moments = parameters.map(({ value }) => [0, 1].map(() => new Float32Array(value.values.length)));
    this.steps = 0;
  }

  step(rate) {
    this.steps += 1;
    const size = rate / (1 - BETA1 ** this.steps);
    const root = Math.sqrt(1 - BETA2 ** this.steps);
    this.parameters.forEach(({ value, gradient }, place) => {
      const [theta, g] = [value.values, gradient.values];
      const [m, v] = this.moments[place];
      for (let i = 0; i < g.length; i++) {
        m[i] += (1 - BETA1) * (g[i] - m[i]);
        v[i] = BETA2 * v[i] + (1 - BETA2) * g[i] * g[i];
        theta[i] -= (size * m[i]) / (Math.sqrt(v[i]) / root + EPSILON);
      }
    });
  }
}

// Shortens the gradients of `parameters` to a total norm of at most `longest`; gives the norm that they had.
export function clip(parameters, longest = 1) {
  let squares = 0;
  for (const { gradient } of parameters) {
    const g = gradient.values;
    for (let i = 0; i < g.length; i++) squares += g[i] * g[i];
  }
  const norm = Math.sqrt(squares);
  const factor = longest / (norm + 1e-6);
  if (factor < 1)
    for (const { gradient } of parameters) {
      const { values } = gradient;
      for (let i = 0; i < values.length; i++) values[i] *= factor;
    }
  return norm;
}

// The share of the peak rate that step `step` of `steps` uses.
export function rateFactor(step, steps, warmup = 0.1) {
  const rising = Math.max(1, halfToEven(warmup * steps));
  if (step < rising) return (step + 1) / rising;
  return 0.5 * (1 + Math.cos((Math.PI * (step - rising)) / Math.max(1, steps - rising)));
}

function halfToEven(x) {
  return x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x); // as Python rounds
}
