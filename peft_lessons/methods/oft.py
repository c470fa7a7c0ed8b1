"""OFT: rotate the inputs, block by block (Qiu et al. 2023, arXiv:2306.07280).

    h = x R W₀ᵀ + b,    R = diag(R₁, R₂, …),    R_i = (I + Q_i)(I − Q_i)⁻¹,    Q_i = −Q_iᵀ        (x is a row)

Each R_i is orthogonal (Cayley's formula), so lengths of inputs and angles between them stay. Q = 0 gives R = I. A block
of size b has b(b − 1)/2 parameters. `blocks` says how many there are in place of how large they are, and `shared`
makes all of them turn alike, by one R_i.

`neumann_terms` replaces the inverse by the first terms of I + 2Q + 2Q² + …, which needs no inverse and is only nearly
orthogonal. peft does so, with 5 terms, unless told otherwise. There 3 means 4; here no fewer than 4 are taken, and no
more than 100, which gain nothing.

Embeddings have a page of their own, `oft_embedding.py`. Left out: constrained OFT, which keeps each Q_i short in
training, and dropout of whole blocks.
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


class Rotation(AdapterLayer):
    """What turns rows of `width` numbers.

    Raises:
        ValueError: when the size or the number of the blocks does not divide the width.
    """

    config: "OFTConfig"
    Q_name: ClassVar[str] = "oft_Q"

    def __init__(self, base_layer: nn.Module, config: "OFTConfig") -> None:
        super().__init__(base_layer, config)
        field = "block_size" if config.blocks is None else "blocks"
        if self.width % (given := getattr(config, field)):
            least = 2 if config.blocks is None else 1
            divisors = [d for d in range(least, self.width + 1) if self.width % d == 0]
            raise ValueError(f"{field} {given} does not divide the width {self.width}; possible: {divisors}")
        size = self.block_size
        Q = self.new_parameter(1 if config.shared else self.width // size, size * (size - 1) // 2)
        self.register_parameter(self.Q_name, Q)

    @property
    def width(self) -> int:
        raise NotImplementedError

    @property
    def block_size(self) -> int:
        return self.config.block_size if self.config.blocks is None else self.width // self.config.blocks

    @exact()
    def rotations(self) -> Tensor:
        """The R_i: (blocks, block_size, block_size), or (1, block_size, block_size) where they are one."""
        size = self.block_size
        kept = self.get_parameter(self.Q_name)
        row, column = torch.triu_indices(size, size, 1, device=kept.device)
        Q = kept.to(torch.promote_types(kept.dtype, torch.float32))
        upper = Q.new_zeros(len(Q), size, size)
        upper[:, row, column] = Q
        return cayley(upper - upper.mT, self.config.neumann_terms)

    def turned(self, x: Tensor) -> Tensor:
        """x R, in the dtype of R. (…, width) → (…, width)"""
        R = self.rotations()
        blocks = x.to(R.dtype).unflatten(-1, (-1, self.block_size))
        return torch.einsum("...rk,rkc->...rc", blocks, R).flatten(-2)


class OFTLinear(Rotation, LinearAdapter):
    """A linear layer behind a rotation. x: (…, in_features) → (…, out_features).

    Raises:
        ValueError: when the size or the number of the blocks does not divide in_features.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import OFTConfig, OFTLinear
        >>> layer = OFTLinear(nn.Linear(8, 4), OFTConfig(block_size=4))
        >>> layer(torch.ones(3, 8)).shape
        torch.Size([3, 4])
        >>> layer.rotations().shape
        torch.Size([2, 4, 4])
    """

    @property
    def width(self) -> int:
        return self.in_features

    def adapted(self, x: Tensor) -> Tensor:
        return self.base_layer(self.turned(x).to(x.dtype))

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

    Attributes:
        block_size: b, the inputs that are rotated among themselves; divides in_features, or an embedding's width.
        blocks: How many blocks there are, in place of a size; divides the same.
        shared: Whether all blocks of a layer turn alike, by one R_i.
        neumann_terms: Terms of the series in place of the inverse, 4 to 100; None takes the inverse itself.

    Raises:
        ValueError: for a block size below 2, a number of blocks below 1, and for fewer than 4 or more than 100
            terms.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import OFTConfig, inject, trainable_parameters
        >>> model = nn.ModuleDict({"q_proj": nn.Linear(8, 4)})
        >>> config = OFTConfig(block_size=4, targets=("q_proj",))
        >>> [tuple(parameter.shape) for parameter in trainable_parameters(inject(model, config))]
        [(2, 6)]
    """

    layer: ClassVar[type[AdapterLayer]] = OFTLinear
    block_size: int = 32
    blocks: int | None = None
    shared: bool = False
    neumann_terms: int | None = None
    targets: Targets = LLAMA_LINEAR_LAYERS

    def wrap(self, name: str, base_layer: nn.Module) -> AdapterLayer:
        if isinstance(base_layer, nn.Embedding):
            from peft_lessons.methods.oft_embedding import OFTEmbedding  # which is made of what is here

            return OFTEmbedding(base_layer, self)
        return super().wrap(name, base_layer)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("block_size", self.block_size, least=2)
        if self.blocks is not None:
            check_count("blocks", self.blocks)
        if self.neumann_terms is not None:
            check_count("neumann_terms", self.neumann_terms, least=4)
            if self.neumann_terms > 100:
                raise ValueError(f"neumann_terms must be at most 100, got {self.neumann_terms}")
