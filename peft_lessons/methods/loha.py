"""LoHa: the elementwise product of two low-rank matrices (Hyeon-Woo et al. 2021, arXiv:2108.06098, Prop. 1).

    ΔW = (α/r) (B₁A₁) ⊙ (B₂A₂)        B (out, r), A (r, in)

For 2r(in + out) parameters the rank of ΔW may be as high as r². The paper calls it FedPara and uses it for whole
weights in federated learning; LyCORIS (arXiv:2309.14859) made it an adapter, LoHa, for the Hadamard product.

Convolutions have a page of their own, `loha_conv.py`. Left out: the paper's optional nonlinearity. ΔW is formed in full
in each forward pass.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.adapters import AdapterLayer
from peft_lessons.convolution import CONVOLUTIONS
from peft_lessons.exact import exact
from peft_lessons.linear import LLAMA_LINEAR_LAYERS, DeltaLinear
from peft_lessons.methods.loha_conv import LoHaConv
from peft_lessons.ranks import RankedConfig
from peft_lessons.targets import Targets


class LoHaLinear(DeltaLinear):
    """A linear layer and its update. x: (…, in_features) → (…, out_features)."""

    config: "LoHaConfig"

    def __init__(self, base_layer: nn.Module, config: "LoHaConfig") -> None:
        super().__init__(base_layer, config)
        self.loha_B1 = self.new_parameter(self.out_features, config.rank)
        self.loha_A1 = self.new_parameter(config.rank, self.in_features)
        self.loha_B2 = self.new_parameter(self.out_features, config.rank)
        self.loha_A2 = self.new_parameter(config.rank, self.in_features)  # zero, so that ΔW starts at zero
        for matrix in (self.loha_B1, self.loha_A1, self.loha_B2):
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    def adapted(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + F.linear(x, self.delta().to(x.dtype))

    @exact()
    def delta(self) -> Tensor:
        wide = torch.promote_types(self.loha_A1.dtype, torch.float32)
        B_1, A_1, B_2, A_2 = (t.to(wide) for t in (self.loha_B1, self.loha_A1, self.loha_B2, self.loha_A2))
        return self.config.alpha / self.config.rank * (B_1 @ A_1) * (B_2 @ A_2)


@dataclass(frozen=True, kw_only=True)
class LoHaConfig(RankedConfig):
    """How much LoHa, and where.

    Raises ValueError for a rank below 1 and an alpha that is not positive.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), LoHaConfig(rank=2, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.loha_B1': (4, 2), '0.loha_A1': (2, 6), '0.loha_B2': (4, 2), '0.loha_A2': (2, 6)}
    """

    layer: ClassVar[type[AdapterLayer]] = LoHaLinear
    rank: int = 8  # of each factor
    alpha: float = 8.0
    effective: bool = False  # the paper's own factors for kernels of convolutions; linear layers have none
    targets: Targets = LLAMA_LINEAR_LAYERS

    def wrap(self, name: str, base_layer: nn.Module) -> AdapterLayer:
        if isinstance(base_layer, CONVOLUTIONS):
            return LoHaConv(base_layer, self.at(name))
        return super().wrap(name, base_layer)

    def at(self, name: str) -> "LoHaConfig":
        return cast(LoHaConfig, super().at(name))
