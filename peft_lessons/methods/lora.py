"""LoRA: Low-Rank Adaptation (Hu et al. 2021, arXiv:2106.09685, §4.1, Eq. 3).

    h = W₀x + ΔWx = W₀x + (α/r) B A x        W₀ (out, in) frozen, A (r, in), B (out, r), r ≪ min(in, out)

A starts random and B at zero, so that ΔW = 0 at the start while B still gets a gradient. Rank-stabilised scaling
(Kalajdzievski 2023, arXiv:2312.03732) divides by √r instead of r.

Left out: adapters on embeddings and convolutions, and LoRA's own merging inside `eval()`; see `peft_lessons.merge`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.linear import DeltaLinear

LLAMA_LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoRALinear(DeltaLinear):
    """A linear layer and its low-rank update. x: (…, in_features) → (…, out_features), in x's dtype.

    Raises ValueError when the rank is above min(in_features, out_features).
    """

    config: "LoRAConfig"

    def __init__(self, base_layer: nn.Module, config: "LoRAConfig") -> None:
        super().__init__(base_layer, config)
        rank, limit = config.rank, min(self.in_features, self.out_features)
        if rank > limit:
            raise ValueError(f"rank {rank} is above min(in, out) = {limit}: a matrix of this shape has no higher rank")
        self.lora_A = nn.Parameter(torch.empty(rank, self.in_features, dtype=self.adapter_dtype, device=self.device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, dtype=self.adapter_dtype, device=self.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        # nn.Dropout(0.0) in training still writes a mask and a copy of x
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    @property
    def scaling(self) -> float:
        return self.config.scaling

    def adapted(self, x: Tensor) -> Tensor:
        A, B = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        return self.base_layer(x) + self.scaling * F.linear(F.linear(self.dropout(x), A), B)

    def delta(self) -> Tensor:
        wide = torch.promote_types(self.lora_A.dtype, torch.float32)
        return self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))

    def extra_repr(self) -> str:
        return f"rank={self.config.rank}, alpha={self.config.alpha:g}"


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(AdapterConfig):
    """How much LoRA, and where.

    Raises ValueError for a rank below 1, an alpha that is not positive and a dropout outside [0, 1).
    """

    layer: ClassVar[type[AdapterLayer]] = LoRALinear
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0  # probability, on the adapter's input only
    rank_stabilized: bool = False  # scaling α/√r (arXiv:2312.03732) in place of α/r
    targets: tuple[str, ...] = LLAMA_LINEAR_LAYERS

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.rank, bool) or not isinstance(self.rank, int):
            raise TypeError(f"rank is a whole number, got {self.rank!r}")
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ValueError(f"alpha must be positive and finite, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {self.dropout}")

    @property
    def scaling(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)
