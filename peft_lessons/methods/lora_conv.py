"""LoRA on a convolution, as in Hugging Face peft and LyCORIS (arXiv:2309.14859, §3.1).

    h = W₀ ∗ x + (α/r) B ∗ (A ∗ x)        W₀ (out, in / g, k…) frozen, A (r, in, k…), B (out, r / g, 1…)

A convolves with the stride, padding and dilation of W₀ down to r channels; B mixes these at each place. With W written
as a matrix (out, in · k…) this is LoRA: ΔW = (α/r) B A. A starts random and B at zero.

In a convolution of g > 1 groups B has these groups, too, and A has none, as in peft: all channels meet in the update,
which therefore has no place in W₀ and cannot be folded.

Left out: transposed convolutions.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peft_lessons.convolution import ConvAdapter
from peft_lessons.exact import exact

if TYPE_CHECKING:
    from peft_lessons.methods.lora import LoRAConfig


class LoRAConv(ConvAdapter):
    """A convolution over one to three dimensions and its low-rank update. (batch, in, …) → (batch, out, …).

    Raises:
        ValueError: for a rank that the groups do not divide.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, LoRAConv
        >>> layer = LoRAConv(nn.Conv2d(3, 6, 3), LoRAConfig(rank=2))
        >>> layer(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 6, 6, 6])
        >>> layer.lora_A.shape, layer.lora_B.shape
        (torch.Size([2, 3, 3, 3]), torch.Size([6, 2, 1, 1]))
    """

    config: "LoRAConfig"

    def __init__(self, base_layer: nn.Module, config: "LoRAConfig") -> None:
        super().__init__(base_layer, config)
        base = self.base_layer
        if config.rank % base.groups:
            raise ValueError(f"rank {config.rank} must be a multiple of the convolution's groups={base.groups}")
        self.lora_A = self.new_parameter(config.rank, base.in_channels, *base.kernel_size)
        self.lora_B = self.new_parameter(base.out_channels, config.rank // base.groups, *(1 for _ in base.kernel_size))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    @property
    def scaling(self) -> float:
        return self.config.scaling

    def adapted(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        return y + self.update(x, y.dtype)

    def update(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(α/r) B ∗ (A ∗ x)"""
        channels = self.convolve(self.dropout(x).to(dtype), self.lora_A.to(dtype))
        return self.scaling * self.mix(channels, self.lora_B.to(dtype))

    @exact()
    def delta(self) -> Tensor:
        """ΔW, shape (out, in, k…), in fp32 or higher."""
        if self.base_layer.groups > 1:
            raise TypeError(
                f"the update of a convolution with groups={self.base_layer.groups} reads all channels and has no place "
                "in its weight"
            )
        wide = torch.promote_types(self.lora_A.dtype, torch.float32)
        product = self.lora_B.to(wide).flatten(1) @ self.lora_A.to(wide).flatten(1)
        return self.scaling * product.view(self.base_layer.weight.shape)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        delta = self.delta()
        return self.base_layer.weight.to(delta.dtype) + delta, self.base_layer.bias

    def extra_repr(self) -> str:
        return f"rank={self.config.rank}, alpha={self.config.alpha:g}"
