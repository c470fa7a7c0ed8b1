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
    """LoRA with a bias β (out_features,) on B, which starts at zero. x: (…, in_features) → (…, out_features).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import BiasedLoRAConfig, BiasedLoRALinear
        >>> layer = BiasedLoRALinear(nn.Linear(8, 4), BiasedLoRAConfig(rank=2))
        >>> layer(torch.ones(3, 8)).shape
        torch.Size([3, 4])
        >>> layer.lora_B_bias.shape
        torch.Size([4])
    """

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
    """LoRA on a convolution, with a bias β (out,) on B, which starts at zero. (batch, in, …) → (batch, out, …).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import BiasedLoRAConfig, BiasedLoRAConv
        >>> layer = BiasedLoRAConv(nn.Conv2d(3, 6, 3), BiasedLoRAConfig(rank=2))
        >>> layer(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 6, 6, 6])
        >>> layer.lora_B_bias.shape
        torch.Size([6])
    """

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

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import BiasedLoRAConfig, inject, trainable_parameters
        >>> model = nn.ModuleDict({"q_proj": nn.Linear(8, 4)})
        >>> config = BiasedLoRAConfig(rank=2, alpha=4, targets=("q_proj",))
        >>> [tuple(parameter.shape) for parameter in trainable_parameters(inject(model, config))]
        [(2, 8), (4, 2), (4,)]
    """

    layer: ClassVar[type[AdapterLayer]] = BiasedLoRALinear
