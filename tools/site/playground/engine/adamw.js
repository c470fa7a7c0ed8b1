// AdamW (arXiv:1711.05101, algorithm 2), without weight decay as the course trains, and what surrounds it: a linear
// warm-up, a cosine to zero, and gradients cut to a total norm.
//
//     m = β₁ m + (1 − β₁) g        v = β₂ v + (1 − β₂) g²
//     θ = θ − η · m / (1 − β₁ᵗ) / (√v / √(1 − β₂ᵗ) + ε)

const FIXED = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

export class AdamW {
  constructor(parameters) {
    this.parameters = parameters;
    this.moments = parameters.map(({ value }) => [0, 1].map(() => value.memory.zeros(value.rows, value.columns)));
    this.steps = 0;
  }

  // Shortens the gradients to a total norm of at most `longest`; gives the norm that they had.
  clip(longest = 1) {
    const gradients = this.parameters.map(({ gradient }) => gradient);
    return gradients.length ? gradients[0].memory.operations.clip(gradients, longest) : 0;
  }

  // What the equations need of the next step, which this counts: η / (1 − β₁ᵗ) and √(1 − β₂ᵗ).
  sizes(rate) {
    this.steps += 1;
    return [rate / (1 - FIXED.beta1 ** this.steps), Math.sqrt(1 - FIXED.beta2 ** this.steps)];
  }

  update(sizes) {
    this.parameters.forEach(({ value, gradient }, place) => {
      value.memory.operations.adamw(value, gradient, ...this.moments[place], sizes, FIXED);
    });
  }
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
