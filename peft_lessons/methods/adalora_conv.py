"""AdaLoRA on convolutions: the kernel as a matrix with one row for each output (AdaLoRA: arXiv:2303.10512).

    h = K ∗ x + b + s P (Λ Q ∗ x)        P (out_channels, r), Λ (r,), Q (r, in_channels · places)

Q convolves with the stride, padding and dilation of K down to r channels, and P mixes these at each place. The
allocator moves rank between convolutions and linear layers alike.

Left out: convolutions in groups, as in peft.
"""

import math

from torch import Tensor, nn

from peft_lessons.convolution import ConvAdapter
from peft_lessons.methods.adalora import AdaLoRAConfig, Triplets


class AdaLoRAConv(Triplets, ConvAdapter):
    """A convolution and P Λ Q. x: (batch, in_channels, …) → (batch, out_channels, …).

    Raises:
        TypeError: for a convolution in groups.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import AdaLoRAConfig, AdaLoRAConv
        >>> layer = AdaLoRAConv(nn.Conv2d(3, 4, kernel_size=3), AdaLoRAConfig(rank=2, target_rank=1))
        >>> layer(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 4, 6, 6])
        >>> layer.lora_B.shape, layer.lora_E.shape, layer.lora_A.shape
        (torch.Size([4, 2]), torch.Size([2, 1]), torch.Size([2, 27]))
    """

    def __init__(self, base_layer: nn.Module, config: AdaLoRAConfig) -> None:
        super().__init__(base_layer, config)
        if (groups := self.base_layer.groups) > 1:
            raise TypeError(f"AdaLoRAConv adapts convolutions of one group, got groups={groups}")
        rows, *window = self.base_layer.weight.shape
        self.add_triplets(rows, math.prod(window))

    def adapted(self, x: Tensor) -> Tensor:
        y, K = self.base_layer(x), self.base_layer.weight
        EA = (self.lora_E * self.lora_A).unflatten(1, K.shape[1:])  # Λ Q
        B = self.lora_B.view(*self.lora_B.shape, *(1 for _ in self.base_layer.kernel_size))
        channels = self.convolve(self.dropout(x).to(y.dtype), EA.to(y.dtype))
        return y + self.scaling * self.mix(channels, B.to(y.dtype))

    def folded(self) -> tuple[Tensor, Tensor | None]:
        delta = self.delta()
        return self.base_layer.weight.to(delta.dtype) + delta.view_as(self.base_layer.weight), self.base_layer.bias
