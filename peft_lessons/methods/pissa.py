"""PiSSA: LoRA that starts from the principal singular vectors of W (Meng et al. 2024, arXiv:2404.02948, Eq. 2–4).

    W = U S Vᵀ,    B₀ = U_r √(S_r / s),    A₀ = √(S_r / s) V_rᵀ,    h = (W − s B₀A₀) x + s B A x

with B = B₀ and A = A₀ at the start, so that h = Wx. Training moves the largest directions of W instead of new ones, and
both matrices have gradients from the first step.

Here W is not rewritten: A₀ and B₀ are kept beside it and h = Wx + s (BA − B₀A₀) x, the same function. So the base can
be had back bit for bit, for 2r(in + out) numbers in memory in place of r(in + out). On disk lie A and B alone, as in
peft: A₀ and B₀ are found again in W, which must be the very same. The product is computed as
BA − B₀A₀ = (B − B₀)A + B₀(A − A₀): the difference of the two large products would drown in bf16's rounding.

OLoRA (Büyükakyüz 2024, arXiv:2406.01775) does the same with W = QR in place of the singular vectors: B₀ = Q_r and
A₀ = R_r, the first r columns and rows.

Left out: the randomised SVD ("pissa_niter_4" in peft), and quantizing the residual W − s B₀A₀ instead of W.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterLayer
from peft_lessons.checks import check_rank_fits
from peft_lessons.exact import exact
from peft_lessons.linear import factors
from peft_lessons.low_rank import adapted_linear
from peft_lessons.methods.lora import LoRAConfig, LoRALinear


class PiSSALinear(LoRALinear):
    """A linear layer and the change of its principal part. x: (…, in_features) → (…, out_features)."""

    initial_A: Tensor  # (rank, in_features)
    initial_B: Tensor  # (out_features, rank)

    @torch.no_grad()
    def __init__(self, base_layer: nn.Module, config: LoRAConfig) -> None:
        super().__init__(base_layer, config)
        B, A = self.start(self.base_weight(self.adapter_dtype))
        self.lora_A.copy_(A)
        self.lora_B.copy_(B)
        self.register_buffer("initial_A", self.lora_A.clone())
        self.register_buffer("initial_B", self.lora_B.clone())

    def start(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(B₀, A₀), shapes (out_features, rank) and (rank, in_features), of W."""
        B, A = principal_part(weight, self.config.rank)
        return B / math.sqrt(self.scaling), A / math.sqrt(self.scaling)

    def adapted(self, x: Tensor) -> Tensor:
        return adapted_linear(self.base_layer, x, self.dropout(x), *self.stacked(), self.scaling)

    @exact()
    def delta(self) -> Tensor:
        A, B = (matrix.to(torch.promote_types(matrix.dtype, torch.float32)) for matrix in self.stacked())
        return self.scaling * (B @ A)

    def stacked(self) -> tuple[Tensor, Tensor]:
        """[A; A − A₀] (2r, in) and [B − B₀, B₀] (out, 2r), whose product is BA − B₀A₀."""
        A = torch.cat((self.lora_A, self.lora_A - self.initial_A))
        B = torch.cat((self.lora_B - self.initial_B, self.initial_B), dim=1)
        return A, B


class OLoRALinear(PiSSALinear):
    """A linear layer and the change of its first directions in W = QR (arXiv:2406.01775).

    x: (…, in_features) → (…, out_features).
    """

    def start(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        check_rank_fits(self.config.rank, *weight.shape)
        Q, R = torch.linalg.qr(weight)
        return Q[:, : self.config.rank], R[: self.config.rank]


@factors.register(PiSSALinear)
def _(layer: PiSSALinear) -> tuple[Tensor, Tensor]:
    A, B = layer.stacked()
    return layer.scaling * B, A


def principal_part(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(U_r √S_r, √S_r V_rᵀ), shapes (out, rank) and (rank, in): their product is nearest to `weight` at this rank.

    Raises ValueError for a rank above min(out, in), since there are no more singular vectors, and for a weight that
    holds NaN or infinity.
    """
    check_rank_fits(rank, *weight.shape)
    try:
        U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"the weight has no singular value decomposition: {error}") from error
    root = S[:rank].sqrt()
    return U[:, :rank] * root, root[:, None] * Vh[:rank]


@dataclass(frozen=True, kw_only=True)
class PiSSAConfig(LoRAConfig):
    """As `LoRAConfig`; the start comes from the weight itself, one SVD a layer.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), PiSSAConfig(rank=2, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.lora_A': (2, 6), '0.lora_B': (4, 2), '0.initial_A': (2, 6), '0.initial_B': (4, 2)}
    """

    layer: ClassVar[type[AdapterLayer]] = PiSSALinear


@dataclass(frozen=True, kw_only=True)
class OLoRAConfig(PiSSAConfig):
    """As `PiSSAConfig`; the start comes from one QR decomposition a layer.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), OLoRAConfig(rank=2, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.lora_A': (2, 6), '0.lora_B': (4, 2), '0.initial_A': (2, 6), '0.initial_B': (4, 2)}
    """

    layer: ClassVar[type[AdapterLayer]] = OLoRALinear
