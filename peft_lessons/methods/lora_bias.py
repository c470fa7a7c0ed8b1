"""LoRA with a bias, as in Hugging Face peft's `lora_bias` (LoRA: Hu et al. 2021, arXiv:2106.09685).

    h = W₀x + (α/r) (B A x + β)        β (out,) starts at zero

It folds like LoRA's update: (α/r) β is added to the bias, which may be new.

Left out: embeddings, which have no bias.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterLayer
from peft_lessons.convolution import CONVOLUTIONS
from peft_lessons.linear import factors
from peft_lessons.methods.lora import ELSEWHERE, LoRAConfig, LoRALinear
from peft_lessons.methods.lora_conv import LoRAConv


class BiasedLoRALinear(LoRALinear):
    """LoRA with a bias β (out_features,) on B, which starts at zero. x: (…, in_features) → (…, out_features)."""

    def __init__(self, base_layer: nn.Module, config: LoRAConfig) -> None:
        super().__init__(base_layer, config)
        self.lora_B_bias = self.new_parameter(self.out_features)

    def adapted(self, x: Tensor) -> Tensor:
        y = super().adapted(x)
        return y + (self.scaling * self.lora_B_bias).to(y.dtype)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = super().folded()
        shift = self.scaling * self.lora_B_bias.to(weight.dtype)
        return weight, shift if bias is None else bias + shift


@factors.register(BiasedLoRALinear)
def _(layer: BiasedLoRALinear) -> None:
    return None  # β is no product


class BiasedLoRAConv(LoRAConv):
    """LoRA on a convolution, with a bias β (out,) on B, which starts at zero. (batch, in, …) → (batch, out, …)."""

    def __init__(self, base_layer: nn.Module, config: LoRAConfig) -> None:
        super().__init__(base_layer, config)
        self.lora_B_bias = self.new_parameter(self.base_layer.out_channels)

    def update(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return super().update(x, dtype) + self.per_output(self.scaling * self.lora_B_bias).to(dtype)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = super().folded()
        shift = self.scaling * self.lora_B_bias.to(weight.dtype)
        return weight, shift if bias is None else bias + shift


ELSEWHERE[BiasedLoRALinear] = dict.fromkeys(CONVOLUTIONS, BiasedLoRAConv)


@dataclass(frozen=True, kw_only=True)
class BiasedLoRAConfig(LoRAConfig):
    """As `LoRAConfig`, with out_features more parameters a layer.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), BiasedLoRAConfig(rank=2, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.lora_A': (2, 6), '0.lora_B': (4, 2), '0.lora_B_bias': (4,)}
    """

    layer: ClassVar[type[AdapterLayer]] = BiasedLoRALinear
