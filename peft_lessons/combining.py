"""Make one LoRA of several: other ways than their exact sum, which is `concatenate`.

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

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from peft_lessons.adapters import Model
from peft_lessons.checks import check_count
from peft_lessons.methods.lora import LoRAConfig, LoRALinear
from peft_lessons.multi_adapter import SeveralAdapters, plain_lora, replace_all

Combine = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""Stacked tensors (adapters, …) and their weights, of the same number of dimensions → one tensor."""


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


@torch.no_grad()
def combine(
    model: Model,
    weights: Mapping[str, float],
    method: str,
    *,
    density: float = 1.0,
    rank: int | None = None,
    seed: int = 0,
) -> tuple[Model, LoRAConfig]:
    """Replace several LoRA adapters by one that `method` makes of them; returns `model` and the new config.

    `density`, in (0, 1], is the share of entries that pruning and dropping leave. `rank` is that of a method with
    "svd" in its name, at most what the layers allow; if not given, the largest of the adapters'. Otherwise all have
    one rank, and keep it. `seed` decides which entries are dropped. The new scaling is 1. Dropout is left out.

    Raises ValueError for an unknown method, a density out of range, a rank where none can be chosen, ranks that differ,
    and what `concatenate` raises. The model then is as it was.
    """
    if method not in METHODS | OF_UPDATES:
        raise ValueError(f"method is {method!r}; possible: {', '.join(METHODS | OF_UPDATES)}, and concatenate()")
    if not 0 < density <= 1:
        raise ValueError(f"density is the share of entries that stay, in (0, 1]; got {density}")
    configs = plain_lora(model, weights)
    ranks = [config.rank for config in configs.values()]
    if method in METHODS:
        if rank is not None:
            raise ValueError(f"rank is for the methods {', '.join(OF_UPDATES)}; {method} keeps the adapters' own")
        if len(set(ranks)) > 1:
            raise ValueError(f"{method} needs adapters of one rank, got {ranks}; possible: {', '.join(OF_UPDATES)}")
    elif rank is not None:
        check_count("rank", rank)
    new_rank = max(ranks) if rank is None else rank
    targets = tuple(dict.fromkeys(target for config in configs.values() for target in config.targets))
    config = LoRAConfig(rank=new_rank, alpha=new_rank, targets=targets)
    generator = torch.Generator().manual_seed(seed)

    def one(layer: SeveralAdapters) -> nn.Module:
        parts = {name: layer.get(name) for name in weights if name in layer.names}
        if not parts:
            return layer.base_layer
        new = LoRALinear(layer.base_layer, config).train(layer.training)
        lora = [part for part in parts.values() if isinstance(part, LoRALinear)]
        share = [weights[name] for name in parts]
        if method in METHODS:
            scaled = [weight * part.scaling for weight, part in zip(share, lora, strict=True)]
            roots = [abs(number) ** 0.5 for number in scaled]
            signed = [root if number >= 0 else -root for root, number in zip(roots, scaled, strict=True)]
            new.lora_A.copy_(_apply(METHODS[method], [part.lora_A for part in lora], signed, density, generator))
            new.lora_B.copy_(_apply(METHODS[method], [part.lora_B for part in lora], roots, density, generator))
        else:
            update = _apply(OF_UPDATES[method], [part.delta() for part in lora], share, density, generator)
            U, S, Vh = torch.linalg.svd(update, full_matrices=False)
            new.lora_A.copy_(Vh[:new_rank])
            new.lora_B.copy_(U[:, :new_rank] * S[:new_rank])
        return new

    return replace_all(model, one), config


def _apply(
    function: Combine, tensors: Sequence[Tensor], weights: Sequence[float], density: float, generator: torch.Generator
) -> Tensor:
    stacked = torch.stack([tensor.detach() for tensor in tensors])
    return function(stacked, torch.tensor(weights).to(stacked).view(-1, 1, 1), density, generator)
