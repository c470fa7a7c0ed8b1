"""AdaLoRA: a budget of ranks, spent where it matters (Zhang et al. 2023, arXiv:2303.10512).

    h = W₀x + s P Λ Q x,    R(P, Q) = ‖PᵀP − I‖² + ‖QQᵀ − I‖²        s = α/r, of the authors' code

An update in the form of a singular value decomposition: P (out, r), Λ diagonal, Q (r, in), kept nearly orthogonal by
the penalty R. Training starts with more rank than is wanted. `RankAllocator` scores each triplet (column of P, value,
row of Q) and sets the values of the lowest to zero, under a budget that falls on a cubic schedule (§3.3).

The parameters are called lora_B = P, lora_E = Λ and lora_A = Q, as in the authors' code and in peft.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer, named_adapters
from peft_lessons.checks import check_count, check_positive, check_probability
from peft_lessons.convolution import CONVOLUTIONS
from peft_lessons.exact import exact
from peft_lessons.linear import LLAMA_LINEAR_LAYERS, DeltaLinear, factors
from peft_lessons.low_rank import adapted_linear
from peft_lessons.ranks import require_rank_fits
from peft_lessons.targets import Targets


class Triplets(AdapterLayer):
    """P Λ Q for a weight of `rows` × `columns` as B E A: lora_B (rows, r), lora_E (r, 1), lora_A (r, columns)."""

    config: "AdaLoRAConfig"

    def add_triplets(self, rows: int, columns: int) -> None:
        self.lora_A = self.new_parameter(self.config.rank, columns)
        self.lora_E = self.new_parameter(self.config.rank, 1)
        self.lora_B = self.new_parameter(rows, self.config.rank)
        nn.init.normal_(self.lora_A, std=0.02)
        nn.init.normal_(self.lora_B, std=0.02)
        self.dropout = nn.Dropout(self.config.dropout) if self.config.dropout else nn.Identity()

    @property
    def scaling(self) -> float:
        return self.config.alpha / (self.config.rank + 1e-5)  # with the authors' guard against a rank of zero

    @exact()
    def delta(self) -> Tensor:
        """ΔW, shape (rows, columns), in fp32 or higher."""
        wide = torch.promote_types(self.lora_A.dtype, torch.float32)
        return self.scaling * self.lora_B.to(wide) @ (self.lora_E.to(wide) * self.lora_A.to(wide))

    @exact()
    def orthogonality_penalty(self) -> Tensor:
        """R(P, Q), a scalar."""
        identity = torch.eye(self.config.rank, dtype=self.lora_A.dtype, device=self.lora_A.device)
        P, Q = self.lora_B, self.lora_A
        return (P.T @ P - identity).square().sum() + (Q @ Q.T - identity).square().sum()


class AdaLoRALinear(Triplets, DeltaLinear):
    """A linear layer and P Λ Q. x: (…, in_features) → (…, out_features).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import AdaLoRAConfig, AdaLoRALinear
        >>> layer = AdaLoRALinear(nn.Linear(8, 4), AdaLoRAConfig(rank=2, target_rank=1))
        >>> layer(torch.ones(3, 8)).shape
        torch.Size([3, 4])
        >>> layer.lora_B.shape, layer.lora_E.shape, layer.lora_A.shape
        (torch.Size([4, 2]), torch.Size([2, 1]), torch.Size([2, 8]))
    """

    def __init__(self, base_layer: nn.Module, config: "AdaLoRAConfig") -> None:
        super().__init__(base_layer, config)
        self.add_triplets(self.out_features, self.in_features)

    def adapted(self, x: Tensor) -> Tensor:
        EA = self.lora_E * self.lora_A  # Λ Q
        return adapted_linear(self.base_layer, x, self.dropout(x), EA, self.lora_B, self.scaling)


@factors.register(AdaLoRALinear)
def _(layer: AdaLoRALinear) -> tuple[Tensor, Tensor]:
    return layer.scaling * layer.lora_B, layer.lora_E * layer.lora_A


@dataclass(frozen=True, kw_only=True)
class AdaLoRAConfig(AdapterConfig):
    """How much rank at first and at last, and when it falls.

    Attributes:
        rank: Triplets at the start, in every layer.
        target_rank: Triplets at the end, on average over the layers.
        alpha: α; the update is scaled by α / rank.
        dropout: Probability, in [0, 1), on the adapter's input only.
        total_steps: Steps of the optimizer in training.
        warmup_steps: Steps before the budget begins to fall.
        final_steps: Steps after it has fallen.
        interval: Steps between two allocations.
        sensitivity_decay: β₁ in [0, 1), of the running mean of `|w · ∂L/∂w|`.
        uncertainty_decay: β₂ in [0, 1), of the running mean of its deviation.

    Raises:
        ValueError: for counts that are out of range, and when no step is left for the budget to fall.

    Examples:
        >>> from peft_lessons import AdaLoRAConfig
        >>> config = AdaLoRAConfig(rank=12, target_rank=8, total_steps=1000, warmup_steps=100, final_steps=100)
        >>> [config.budget(step, layers=10) for step in (100, 500, 1000)]
        [120, 85, 80]
    """

    layer: ClassVar[type[AdapterLayer]] = AdaLoRALinear
    rank: int = 12
    target_rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    total_steps: int = 1000
    warmup_steps: int = 0
    final_steps: int = 0
    interval: int = 1
    sensitivity_decay: float = 0.85
    uncertainty_decay: float = 0.85
    targets: Targets = LLAMA_LINEAR_LAYERS

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "target_rank", "total_steps", "interval"):
            check_count(name, getattr(self, name))
        for name in ("warmup_steps", "final_steps"):
            check_count(name, getattr(self, name), least=0)
        for name in ("dropout", "sensitivity_decay", "uncertainty_decay"):
            check_probability(name, getattr(self, name))
        check_positive("alpha", self.alpha)
        if self.target_rank > self.rank:
            raise ValueError(f"target_rank {self.target_rank} is above the first rank, {self.rank}")
        if self.warmup_steps + self.final_steps >= self.total_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and final_steps {self.final_steps} leave none of {self.total_steps} "
                "total_steps for the budget to fall"
            )

    def check(self, name: str, base_layer: nn.Module) -> None:
        require_rank_fits(self, base_layer)

    def wrap(self, name: str, base_layer: nn.Module) -> AdapterLayer:
        if isinstance(base_layer, CONVOLUTIONS):
            from peft_lessons.methods.adalora_conv import AdaLoRAConv  # which is made of what is here

            return AdaLoRAConv(base_layer, self)
        return super().wrap(name, base_layer)

    def budget(self, step: int, layers: int) -> int:
        """Singular values that may stay after `step`, over all layers (§3.3)."""
        first, last = self.rank * layers, self.target_rank * layers
        if step <= self.warmup_steps:
            return first
        if step > self.total_steps - self.final_steps:
            return last
        done = (step - self.warmup_steps) / (self.total_steps - self.final_steps - self.warmup_steps)
        return int(last + (first - last) * (1 - done) ** 3)


class RankAllocator:
    """Moves rank between the AdaLoRA layers of a model. Call `step` once after each step of the optimizer.

    Make it when the model has its dtype and device. Its running means lie in buffers of the layers, so that whatever
    keeps the state of training keeps them; they are not saved with an adapter.

    A weight's importance is the running mean of its sensitivity `|w · ∂L/∂w|` times that of the sensitivity's deviation
    (Eq. 8–10 and the next). A triplet's score is that of its value plus the means over its column and its row (Eq. 7).
    Equal scores fall together, as in peft, so that fewer may stay than the budget allows.

    Raises:
        ValueError: when the model has no AdaLoRA layer.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import AdaLoRAConfig, RankAllocator, inject
        >>> config = AdaLoRAConfig(rank=4, target_rank=1, total_steps=2, targets=("0",))
        >>> model = inject(nn.Sequential(nn.Linear(8, 8)), config)
        >>> _ = nn.init.normal_(model[0].lora_E)
        >>> allocator = RankAllocator(model)
        >>> for step in (1, 2):
        ...     model(torch.ones(8)).square().sum().backward()
        ...     allocator.step(step)
        >>> allocator.ranks
        [1]
    """

    def __init__(self, model: nn.Module) -> None:
        found = (layer for _, layer in named_adapters(model) if isinstance(layer, Triplets))
        self.layers = list(dict.fromkeys(found))
        if not self.layers:
            raise ValueError("nothing to allocate: the model has no AdaLoRA layers")
        self.config = self.layers[0].config
        self.sensitivity = self._buffers("sensitivity")
        self.uncertainty = self._buffers("uncertainty")

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Take in the gradients of step number `step`, counted from 1, and cut down to the budget.

        Raises:
            ValueError: when a parameter has no gradient, or when nothing was measured before the final steps.
        """
        config = self.config
        if step < config.total_steps - config.final_steps:
            self._measure()
        falling = step > config.warmup_steps and step % config.interval == 0
        if falling or step >= config.total_steps - config.final_steps:
            self._keep(config.budget(step, len(self.layers)))

    @property
    def ranks(self) -> list[int]:
        """Singular values that are not zero, layer by layer."""
        return [int(layer.lora_E.count_nonzero()) for layer in self.layers]

    def _buffers(self, mean: str) -> dict[nn.Parameter, Tensor]:
        """Zeros for a running mean of each parameter, as buffers of the layers, such as lora_A_sensitivity."""
        found = {}
        for layer in self.layers:
            for name, parameter in zip(("lora_A", "lora_E", "lora_B"), _triplet(layer), strict=True):
                found[parameter] = torch.zeros_like(parameter, requires_grad=False)
                layer.register_buffer(f"{name}_{mean}", found[parameter], persistent=False)
        return found

    def _measure(self) -> None:
        first, second = self.config.sensitivity_decay, self.config.uncertainty_decay
        for p, mean in self.sensitivity.items():
            if p.grad is None:
                raise ValueError("no gradients to judge ranks by: call step after backward and before zero_grad")
            sensitivity = (p * p.grad).abs()
            mean.lerp_(sensitivity, 1 - first)
            self.uncertainty[p].lerp_((sensitivity - mean).abs(), 1 - second)

    def _keep(self, budget: int) -> None:
        if not any(mean.any() for mean in self.sensitivity.values()):
            raise ValueError("nothing was measured yet: an allocator cannot begin in the final steps of training")
        scores = [self._scores(layer) for layer in self.layers]
        everything = torch.cat(scores)
        if budget >= len(everything):
            return
        threshold = everything.kthvalue(len(everything) - budget).values
        for layer, score in zip(self.layers, scores, strict=True):
            layer.lora_E.masked_fill_((score <= threshold)[:, None], 0.0)

    def _scores(self, layer: Triplets) -> Tensor:
        A, E, B = (self.sensitivity[p] * self.uncertainty[p] for p in _triplet(layer))
        return E[:, 0] + A.mean(dim=1) + B.mean(dim=0)


def _triplet(layer: Triplets) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    return layer.lora_A, layer.lora_E, layer.lora_B
