"""IA³ on convolutions: one number for each channel, as in peft (IA³: Liu et al. 2022, arXiv:2205.05638).

    y = l ⊙ (K ∗ x + b), l (out_channels,)        or        y = K ∗ (l ⊙ x) + b, l (in_channels,)

A linear layer's features are a convolution's channels: l scales them at every place alike, and folds into the kernel K.
"""

from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig
from peft_lessons.convolution import ConvAdapter


class IA3Conv(ConvAdapter):
    """A convolution whose outputs or inputs are scaled. x: (batch, in_channels, …) → (batch, out_channels, …).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import IA3Config, IA3Conv
        >>> layer = IA3Conv(nn.Conv2d(3, 6, 3), IA3Config(), scales_input=False)
        >>> layer(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 6, 6, 6])
        >>> layer.ia3_l.shape
        torch.Size([6])
    """

    def __init__(self, base_layer: nn.Module, config: AdapterConfig, *, scales_input: bool) -> None:
        super().__init__(base_layer, config)
        self.scales_input = scales_input
        self.ia3_l = self.new_parameter(self.base_layer.in_channels if scales_input else self.base_layer.out_channels)
        nn.init.ones_(self.ia3_l)

    def adapted(self, x: Tensor) -> Tensor:
        if self.scales_input:
            return self.base_layer(self.for_channels(self.ia3_l).to(x.dtype) * x)
        y = self.base_layer(x)
        return self.for_channels(self.ia3_l).to(y.dtype) * y

    def folded(self) -> tuple[Tensor, Tensor | None]:
        conv, scale = self.base_layer, self.ia3_l.to(self.adapter_dtype)
        K, bias = conv.weight.to(scale.dtype), conv.bias  # (out_channels, in_channels / groups, …)
        if self.scales_input:  # each group of outputs reads its own inputs
            rows = scale.view(conv.groups, -1).repeat_interleave(conv.out_channels // conv.groups, dim=0)
            return K * rows.view(*rows.shape, *[1] * (K.ndim - 2)), bias
        return K * scale.view(-1, *[1] * (K.ndim - 1)), None if bias is None else bias.to(scale.dtype) * scale

    def for_channels(self, scale: Tensor) -> Tensor:
        """l (channels,) → (1, channels, 1, …), which scales channels, and is how peft stores it."""
        return scale.view(1, -1, *[1] * (self.base_layer.weight.ndim - 2))
