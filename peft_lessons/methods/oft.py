"""OFT: rotate the inputs, block by block (Qiu et al. 2023, arXiv:2306.07280).

    h = x R W₀ᵀ + b,    R = diag(R₁, R₂, …),    R_i = (I + Q_i)(I − Q_i)⁻¹,    Q_i = −Q_iᵀ        (x is a row)

Each R_i is orthogonal (Cayley's formula), so lengths of inputs and angles between them stay. Q = 0 gives R = I. A block
of size b has b(b − 1)/2 parameters. `blocks` says how many there are in place of how large they are, and `shared`
makes all of them turn alike, by one R_i.

`neumann_terms` replaces the inverse by the first terms of I + 2Q + 2Q² + …, which needs no inverse and is only nearly
orthogonal. peft does so, with 5 terms, unless told otherwise. There 3 means 4; here no fewer than 4 are taken, and no
more than 100, which gain nothing.

Left out: constrained OFT, which keeps each Q_i short in training, and dropout of whole blocks.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.checks import check_count
from peft_lessons.exact import exact
from peft_lessons.linear import LLAMA_LINEAR_LAYERS, LinearAdapter
from peft_lessons.targets import Targets


class OFTLinear(LinearAdapter):
    """A linear layer behind a rotation. x: (…, in_features) → (…, out_features).

    Raises ValueError when the size or the number of the blocks does not divide in_features.
    """

    config: "OFTConfig"

    def __init__(self, base_layer: nn.Module, config: "OFTConfig") -> None:
        super().__init__(base_layer, config)
        field = "block_size" if config.blocks is None else "blocks"
        if self.in_features % (given := getattr(config, field)):
            least = 2 if config.blocks is None else 1
            divisors = [d for d in range(least, self.in_features + 1) if self.in_features % d == 0]
            raise ValueError(f"{field} {given} does not divide in_features {self.in_features}; possible: {divisors}")
        size = self.block_size
        self.oft_Q = self.new_parameter(1 if config.shared else self.in_features // size, size * (size - 1) // 2)

    @property
    def block_size(self) -> int:
        return self.config.block_size if self.config.blocks is None else self.in_features // self.config.blocks

    @exact()
    def rotations(self) -> Tensor:
        """The R_i: (blocks, block_size, block_size), or (1, block_size, block_size) where they are one."""
        size = self.block_size
        row, column = torch.triu_indices(size, size, 1, device=self.oft_Q.device)
        Q = self.oft_Q.to(torch.promote_types(self.oft_Q.dtype, torch.float32))
        upper = Q.new_zeros(len(Q), size, size)
        upper[:, row, column] = Q
        return cayley(upper - upper.mT, self.config.neumann_terms)

    def adapted(self, x: Tensor) -> Tensor:
        R = self.rotations()
        blocks = x.to(R.dtype).unflatten(-1, (-1, self.block_size))
        return self.base_layer(torch.einsum("...rk,rkc->...rc", blocks, R).flatten(-2).to(x.dtype))

    def folded(self) -> tuple[Tensor, Tensor | None]:
        R = self.rotations()
        blocks = self.base_weight(R.dtype).unflatten(-1, (-1, self.block_size))
        return torch.einsum("ork,rck->orc", blocks, R).flatten(-2), self.base_layer.bias


def cayley(Q: Tensor, neumann_terms: int | None) -> Tensor:
    """(I + Q)(I − Q)⁻¹ of skew-symmetric Q (…, b, b), or the first terms of its series, the last of them halved."""
    identity = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device).expand_as(Q)
    if neumann_terms is None:
        return torch.linalg.solve(identity - Q, identity + Q, left=False)
    R, power = identity, identity
    for term in range(1, neumann_terms):
        power = power @ Q
        R = R + (2 if term < neumann_terms - 1 else 1) * power
    return R


@dataclass(frozen=True, kw_only=True)
class OFTConfig(AdapterConfig):
    """How large the rotated blocks are, and where.

    Raises ValueError for a block size below 2, a number of blocks below 1, and for fewer than 4 or more than 100 terms.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), OFTConfig(block_size=3, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.oft_Q': (2, 3)}
    """

    layer: ClassVar[type[AdapterLayer]] = OFTLinear
    block_size: int = 32  # inputs that are rotated among themselves
    blocks: int | None = None  # how many there are, in place of a size
    shared: bool = False  # one R_i for all blocks of a layer
    neumann_terms: int | None = None  # None: the exact inverse
    targets: Targets = LLAMA_LINEAR_LAYERS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("block_size", self.block_size, least=2)
        if self.blocks is not None:
            check_count("blocks", self.blocks)
        if self.neumann_terms is not None:
            check_count("neumann_terms", self.neumann_terms, least=4)
            if self.neumann_terms > 100:
                raise ValueError(f"neumann_terms must be at most 100, got {self.neumann_terms}")
