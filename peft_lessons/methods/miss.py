"""MiSS: one trained matrix, shared by all shards of the input (Kang & Yin 2024, arXiv:2409.15371, MiSSᵉ).

    h = W₀x + Dᵀ(x₁ + x₂ + …)        D (r, out), x_i the i-th r numbers of x, the last of them filled up with zeros

ΔW is Dᵀ beside itself, as often as it fits into W: of rank r at most, with r · out numbers, and no product with all of
x. Backward needs the sum of the shards, r numbers a token, and not x itself.

D starts at zero and gets a gradient all the same, since nothing else that trains stands beside it. There is no α.

Left out: peft's variants "bat", where W₀'s own shards take part in the update, and "mini", where D repeats itself over
the outputs, too.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.checks import check_count, check_probability
from peft_lessons.exact import exact
from peft_lessons.linear import LLAMA_LINEAR_LAYERS, DeltaLinear, factors
from peft_lessons.targets import Targets


class MiSSLinear(DeltaLinear):
    """A linear layer and its update. x: (…, in_features) → (…, out_features), in x's dtype.

    Raises:
        ValueError: for a rank above in_features.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import MiSSConfig, MiSSLinear
        >>> layer = MiSSLinear(nn.Linear(8, 4), MiSSConfig(rank=2))
        >>> layer(torch.ones(3, 8)).shape, layer.miss_D.shape
        (torch.Size([3, 4]), torch.Size([2, 4]))
    """

    config: "MiSSConfig"

    def __init__(self, base_layer: nn.Module, config: "MiSSConfig") -> None:
        super().__init__(base_layer, config)
        check_shard(config.rank, self.in_features)
        self.miss_D = self.new_parameter(config.rank, self.out_features)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def adapted(self, x: Tensor) -> Tensor:
        rank = self.config.rank
        shards = F.pad(self.dropout(x), (0, -self.in_features % rank)).unflatten(-1, (-1, rank))
        return self.base_layer(x) + F.linear(shards.sum(-2), self.miss_D.to(x.dtype).T)

    @exact()
    def delta(self) -> Tensor:
        return self.in_each_shard(self.miss_D.to(torch.promote_types(self.miss_D.dtype, torch.float32)).T)

    def in_each_shard(self, matrix: Tensor) -> Tensor:
        """Repeat (…, r) to (…, in_features), cutting the last shard off where it ends."""
        return matrix.repeat(1, -(-self.in_features // self.config.rank))[:, : self.in_features]


@factors.register(MiSSLinear)
def _(layer: MiSSLinear) -> tuple[Tensor, Tensor]:
    D = layer.miss_D
    return D.T, layer.in_each_shard(torch.eye(len(D), dtype=D.dtype, device=D.device))  # R adds the shards


def check_shard(rank: int, in_features: int) -> None:
    if rank > in_features:
        raise ValueError(f"rank {rank} is above in_features {in_features}: there is no whole shard")


@dataclass(frozen=True, kw_only=True)
class MiSSConfig(AdapterConfig):
    """How much MiSS, and where.

    Attributes:
        rank: r, the inputs in a shard.
        dropout: Probability that a number of the adapter's input is dropped in training, in [0, 1).

    Raises:
        ValueError: for a rank below 1 and a dropout outside [0, 1).

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import MiSSConfig, inject, trainable_parameters
        >>> model = nn.ModuleDict({"q_proj": nn.Linear(8, 4)})
        >>> config = MiSSConfig(rank=2, targets=("q_proj",))
        >>> [tuple(parameter.shape) for parameter in trainable_parameters(inject(model, config))]
        [(2, 4)]
    """

    layer: ClassVar[type[AdapterLayer]] = MiSSLinear
    rank: int = 64
    dropout: float = 0.0
    targets: Targets = LLAMA_LINEAR_LAYERS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("rank", self.rank)
        check_probability("dropout", self.dropout)
