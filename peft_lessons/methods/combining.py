"""One LoRA of several, in other ways than their exact sum, which is `concatenate`.

With the weight wᵢ and the scaling sᵢ of adapter i, most methods combine the factors A and B apart,

    A = f(aᵢ Aᵢ),  B = f(bᵢ Bᵢ)        bᵢ = √|wᵢsᵢ|, aᵢ = bᵢ with the sign of wᵢsᵢ

where f is one of

    linear              Σ                            task arithmetic (Ilharco et al. 2022, arXiv:2212.04089)
    magnitude_prune     Σ after pruning              of each tensor the largest `density` of its entries stay
    dare_linear         Σ after dropping             random ones stay, divided by `density` (arXiv:2311.03099)
    ties                elected mean after pruning   TIES (Yadav et al. 2023, arXiv:2306.01708)
    dare_ties           elected mean after dropping

The elected mean of an entry is that of the adapters whose sign there is the sign of the sum, before weights. Note that
Σ aᵢAᵢ times Σ bᵢBᵢ has products such as B₁A₂ in it, which no adapter has learnt. With "_svd" behind its name a method
combines the updates sᵢBᵢAᵢ themselves, and the best approximation of the new rank is taken of that; "svd" alone is the
sum. All equal those of peft's `add_weighted_adapter`. Left out: its clamping, and election by the number of signs.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Combine = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""Stacked tensors (adapters, …), their weights (adapters, 1, …), density, random numbers → one tensor (…)."""
Factors = tuple[Tensor, Tensor]
"""A (rank, in) and B (out, rank)."""


def _linear(tensors: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return (tensors * weights).sum(0)


def _magnitude_prune(tensors: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return (_largest(tensors, density) * weights).sum(0)


def _dare_linear(tensors: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return (_random(tensors, density, generator) * weights).sum(0)


def _ties(tensors: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return _elected_mean(_largest(tensors, density), weights)


def _dare_ties(tensors: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return _elected_mean(_random(tensors, density, generator), weights)


METHODS: dict[str, Combine] = {
    "linear": _linear,
    "magnitude_prune": _magnitude_prune,
    "dare_linear": _dare_linear,
    "ties": _ties,
    "dare_ties": _dare_ties,
}
OF_UPDATES: dict[str, Combine] = {"svd": _linear} | {f"{n}_svd": f for n, f in METHODS.items() if n != "linear"}


def _largest(tensors: Tensor, density: float) -> Tensor:
    """Of each tensor the share `density` of its entries that are largest in absolute value; zero elsewhere."""
    flat = tensors.flatten(1)
    kept = flat.abs().topk(int(density * flat.shape[1]), dim=1).indices
    return (flat * torch.zeros_like(flat).scatter_(1, kept, 1)).view_as(tensors)


def _random(tensors: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Each entry with probability `density`, divided by it; zero elsewhere."""
    if density == 1:
        return tensors
    chances = torch.full(tensors.shape, density)  # on the CPU: the same entries on every device
    kept = torch.stack([torch.bernoulli(one, generator=generator) for one in chances])
    return tensors * kept.to(tensors) / density


def _elected_mean(tensors: Tensor, weights: Tensor) -> Tensor:
    agree = tensors.sign() == torch.where(tensors.sum(0) >= 0, 1, -1)
    return (tensors * weights * agree).sum(0) / agree.sum(0).clamp(min=1)


def combined_factors(
    method: str, factors: Sequence[Factors], weights: Sequence[float], density: float, generator: torch.Generator
) -> Factors:
    """One A and one B of adapters of equal rank; `weights` has their scaling in it."""
    roots = [abs(weight) ** 0.5 for weight in weights]
    signed = [root if weight >= 0 else -root for root, weight in zip(roots, weights, strict=True)]
    A, B = ([matrices[i] for matrices in factors] for i in (0, 1))
    return (
        _apply(METHODS[method], A, signed, density, generator),
        _apply(METHODS[method], B, roots, density, generator),
    )


def combined_updates(
    method: str,
    updates: Sequence[Tensor],
    weights: Sequence[float],
    rank: int,
    density: float,
    generator: torch.Generator,
) -> Factors:
    """The best A and B of `rank` for what `method` makes of updates (out, in), which have their scaling in them."""
    update = _apply(OF_UPDATES[method], updates, weights, density, generator)
    U, S, Vh = torch.linalg.svd(update, full_matrices=False)
    return Vh[:rank], U[:, :rank] * S[:rank]


def _apply(
    function: Combine, tensors: Sequence[Tensor], weights: Sequence[float], density: float, generator: torch.Generator
) -> Tensor:
    stacked = torch.stack(list(tensors))
    return function(stacked, torch.tensor(weights).to(stacked).view(-1, 1, 1), density, generator)
