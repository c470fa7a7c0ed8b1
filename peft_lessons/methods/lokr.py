"""LoKr: the Kronecker product of two small matrices (Yeh et al. 2023, LyCORIS, arXiv:2309.14859).

    h = W₀x + s (C ⊗ D) x,    D = B A,    s = α/r        C (out₁, in₁), D (out₂, in₂), B (out₂, r), A (r, in₂)

with out = out₁ out₂ and in = in₁ in₂. ΔW holds a copy of D for each number of C, scaled by it, so its rank may be as
high as the product of theirs, for very few parameters. KronA (Edalati et al. 2022, arXiv:2212.10650) is the same with
D whole. So is LoKr where r is no lower than half of D's longer side, since B and A then save nothing.

ΔW is never formed: with x as rows of a matrix X (in₁, in₂), the product is that of C X Dᵀ, read row by row.

C starts at zero, D random; LyCORIS does it the other way round. Left out: convolutions, dropout of rows and of layers.
"""

import math
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.adapters import AdapterLayer
from peft_lessons.checks import check_count
from peft_lessons.exact import exact
from peft_lessons.linear import LLAMA_LINEAR_LAYERS, DeltaLinear
from peft_lessons.ranks import RankedConfig
from peft_lessons.targets import Targets


class LoKrLinear(DeltaLinear):
    """A linear layer and its update. x: (…, in_features) → (…, out_features), in x's dtype.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import LoKrConfig, LoKrLinear
        >>> layer = LoKrLinear(nn.Linear(30, 36), LoKrConfig(rank=2))
        >>> layer(torch.ones(3, 30)).shape
        torch.Size([3, 36])
        >>> layer.lokr_C.shape, layer.lokr_D_B.shape, layer.lokr_D_A.shape
        (torch.Size([6, 5]), torch.Size([6, 2]), torch.Size([2, 6]))
    """

    config: "LoKrConfig"

    def __init__(self, base_layer: nn.Module, config: "LoKrConfig") -> None:
        super().__init__(base_layer, config)
        (self.out_1, self.out_2), (self.in_1, self.in_2) = (
            split(size, config.factor) for size in (self.out_features, self.in_features)
        )
        for name, shape in shapes(config, self.in_features, self.out_features).items():
            matrix = self.new_parameter(*shape)
            if name not in ("lokr_C", "lokr_C_B"):  # zero, so that ΔW starts at zero
                nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
            self.register_parameter(name, matrix)

    @property
    def scaling(self) -> float:
        return self.config.alpha / self.config.rank

    def adapted(self, x: Tensor) -> Tensor:
        X = x.unflatten(-1, (self.in_1, self.in_2))
        for factor in ("D", "C"):  # (…, in₁, in₂) → (…, out₂, in₁) → (…, out₁, out₂)
            for matrix in reversed(self._matrices(factor)):
                X = F.linear(X, matrix.to(x.dtype))
            X = X.mT
        return self.base_layer(x) + self.scaling * X.flatten(-2)

    @exact()
    def delta(self) -> Tensor:
        wide = torch.promote_types(self._matrices("C")[0].dtype, torch.float32)
        C, D = (reduce(torch.matmul, (matrix.to(wide) for matrix in self._matrices(factor))) for factor in ("C", "D"))
        return self.scaling * torch.kron(C, D)

    def _matrices(self, factor: str) -> list[Tensor]:
        """C or D itself, or the two whose product it is."""
        whole = getattr(self, f"lokr_{factor}", None)
        return [getattr(self, f"lokr_{factor}_{part}") for part in "BA"] if whole is None else [whole]


def split(size: int, factor: int) -> tuple[int, int]:
    """Split a width into `factor` and the rest, where it divides; else into its largest divisor below factor and root.

    Without a factor, −1, the two are as near to each other as they can be, the smaller first.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = math.isqrt(size) if factor < 0 else min(factor, math.isqrt(size))
    first = max(divisor for divisor in range(1, limit + 1) if size % divisor == 0)
    return first, size // first


def shapes(config: "LoKrConfig", in_features: int, out_features: int) -> dict[str, tuple[int, int]]:
    """Return the shape of each matrix that trains: C and D, or the two whose product one of them is."""
    (out_1, out_2), (in_1, in_2) = split(out_features, config.factor), split(in_features, config.factor)
    found: dict[str, tuple[int, int]] = {}
    for name, rows, columns, divides in (("C", out_1, in_1, config.decompose_both), ("D", out_2, in_2, True)):
        if divides and config.rank < max(rows, columns) / 2:
            found |= {f"lokr_{name}_B": (rows, config.rank), f"lokr_{name}_A": (config.rank, columns)}
        else:
            found[f"lokr_{name}"] = (rows, columns)
    return found


@dataclass(frozen=True, kw_only=True)
class LoKrConfig(RankedConfig):
    """How much LoKr, and where.

    Attributes:
        rank: r of D = B A; one that is too high for B and A to save anything means D as a whole.
        alpha: α; the update is scaled by α / rank.
        factor: out₁ and in₁, where it divides a width; −1 takes what is nearest to the width's root.
        decompose_both: Whether C is a product of two matrices, too, where that saves numbers.

    Raises:
        ValueError: for a rank below 1, an alpha that is not positive, and a factor that is neither −1 nor positive.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import LoKrConfig, inject, trainable_parameters
        >>> model = nn.ModuleDict({"q_proj": nn.Linear(30, 36)})
        >>> config = LoKrConfig(rank=2, alpha=4, targets=("q_proj",))
        >>> [tuple(parameter.shape) for parameter in trainable_parameters(inject(model, config))]
        [(6, 5), (6, 2), (2, 6)]
    """

    layer: ClassVar[type[AdapterLayer]] = LoKrLinear
    rank: int = 8
    alpha: float = 8.0
    factor: int = -1
    decompose_both: bool = False
    targets: Targets = LLAMA_LINEAR_LAYERS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("factor", self.factor, least=-1)
        if self.factor == 0:
            raise ValueError("factor is -1 or at least 1, got 0")

    def check(self, name: str, base_layer: nn.Module) -> None:
        """Accept any rank: none is too high, see above."""
