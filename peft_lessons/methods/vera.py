"""VeRA: one random pair A, B for all layers, and two trained vectors a layer (Kopiczko et al. 2023, arXiv:2310.11454).

    h = W₀x + Λ_b B Λ_d A x        A (r, in), B (out, r) random, frozen and shared; d (r,), b (out,) trained

b starts at zero, d at 0.1. Layers of other sizes use the first rows and columns of the shared pair, which is as large
as the largest of them. As in peft, A and B are saved with the vectors: a seed may give other numbers elsewhere.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.checks import check_count, check_positive, check_probability
from peft_lessons.exact import exact
from peft_lessons.linear import LLAMA_LINEAR_LAYERS, DeltaLinear, factors
from peft_lessons.targets import Targets


class VeRALinear(DeltaLinear):
    """A linear layer and its two vectors. x: (…, in_features) → (…, out_features)."""

    config: "VeRAConfig"

    def __init__(self, base_layer: nn.Module, config: "VeRAConfig") -> None:
        super().__init__(base_layer, config)
        self.vera_lambda_b = self.new_parameter(self.out_features)
        self.vera_lambda_d = self.new_parameter(config.rank)
        nn.init.constant_(self.vera_lambda_d, config.initial)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def share(self, A: nn.Parameter, B: nn.Parameter) -> None:
        self.vera_A, self.vera_B = A, B  # parameters, since a shared buffer would be split by .to()

    def adapted(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)  # whose dtype is autocast's, where there is one
        A, B, b, d = (tensor.to(y.dtype) for tensor in self._matrices())
        return y + b * F.linear(d * F.linear(self.dropout(x), A), B)

    @exact()
    def delta(self) -> Tensor:
        A, B, b, d = (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in self._matrices())
        return (b[:, None] * B) @ (d[:, None] * A)

    def _matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            self.vera_A[:, : self.in_features],
            self.vera_B[: self.out_features],
            self.vera_lambda_b,
            self.vera_lambda_d,
        )


@factors.register(VeRALinear)
def _(layer: VeRALinear) -> tuple[Tensor, Tensor]:
    A, B, b, d = layer._matrices()
    return b[:, None] * B, d[:, None] * A


@dataclass(frozen=True, kw_only=True)
class VeRAConfig(AdapterConfig):
    """How large the shared pair is, and where it goes.

    Raises ValueError for a rank below 1, a negative seed, a start that is not positive, a dropout outside [0, 1).

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), VeRAConfig(rank=2, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.vera_lambda_b': (4,), '0.vera_lambda_d': (2,), '0.vera_A': (2, 6), '0.vera_B': (4, 2)}
    """

    layer: ClassVar[type[AdapterLayer]] = VeRALinear
    rank: int = 256  # much higher than LoRA's, since a rank costs one trained number, not in + out
    initial: float = 0.1  # of d
    dropout: float = 0.0  # probability, on the adapter's input only
    seed: int = 0  # of the shared pair
    targets: Targets = LLAMA_LINEAR_LAYERS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("rank", self.rank)
        check_count("seed", self.seed, least=0)
        check_positive("initial", self.initial)
        check_probability("dropout", self.dropout)

    def connect(self, layers: list[AdapterLayer]) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        adapters = [layer for layer in layers if isinstance(layer, VeRALinear)]
        A = torch.empty(self.rank, max(layer.in_features for layer in adapters), dtype=torch.float32, device="cpu")
        B = torch.empty(max(layer.out_features for layer in adapters), self.rank, dtype=torch.float32, device="cpu")
        for matrix in (A, B):
            nn.init.kaiming_uniform_(matrix, generator=generator)
        like = adapters[0].vera_lambda_b
        shared_A, shared_B = (nn.Parameter(matrix.to(like), requires_grad=False) for matrix in (A, B))
        for layer in adapters:
            layer.share(shared_A, shared_B)
