"""LoHa on convolutions: the kernel as a matrix with one row for each output (LoHa: arXiv:2108.06098, arXiv:2309.14859).

    ΔK = (α/r) (B₁A₁) ⊙ (B₂A₂), folded into K's shape        B (out_channels, r), A (r, in_channels / groups · places)

`effective` is the paper's factorization for kernels (Prop. 3): each factor is a tensor T (r, r, places…) between
B (r, out_channels) and A (r, in_channels / groups), which needs fewer parameters. A kernel of one place has none.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from peft_lessons.convolution import ConvAdapter
from peft_lessons.exact import exact

if TYPE_CHECKING:
    from peft_lessons.methods.loha import LoHaConfig


class LoHaConv(ConvAdapter):
    """A convolution and the update of its kernel. x: (batch, in_channels, …) → (batch, out_channels, …).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import LoHaConfig, LoHaConv
        >>> layer = LoHaConv(nn.Conv2d(3, 6, 3), LoHaConfig(rank=2, effective=True))
        >>> layer(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 6, 6, 6])
        >>> layer.loha_T1.shape
        torch.Size([2, 2, 3, 3])
    """

    config: "LoHaConfig"

    def __init__(self, base_layer: nn.Module, config: "LoHaConfig") -> None:
        super().__init__(base_layer, config)
        rows, inputs, *places = self.base_layer.weight.shape
        self.effective, rank = config.effective and math.prod(places) > 1, config.rank
        shapes: dict[str, tuple[int, ...]] = {"B": (rows, rank), "A": (rank, inputs * math.prod(places))}
        if self.effective:
            shapes = {"T": (rank, rank, *places), "B": (rank, rows), "A": (rank, inputs)}
        for number in "12":
            for letter, shape in shapes.items():
                self.register_parameter(f"loha_{letter}{number}", self.new_parameter(*shape))
        for name, parameter in self.named_parameters():
            if name.startswith("loha_") and name != "loha_A2":  # zero, so that ΔK starts at zero
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))

    def adapted(self, x: Tensor) -> Tensor:
        K = self.base_layer.weight
        return functional_call(self.base_layer, {"weight": K + self.delta().to(K.dtype)}, (x,))

    @exact()
    def delta(self) -> Tensor:
        """ΔK in the shape of K, in fp32 or higher."""
        return self.config.alpha / self.config.rank * self._factor("1") * self._factor("2")

    def _factor(self, number: str) -> Tensor:
        B, A = (self.get_parameter(f"loha_{letter}{number}") for letter in "BA")
        wide = torch.promote_types(A.dtype, torch.float32)
        if self.effective:
            T = self.get_parameter(f"loha_T{number}").to(wide)
            return torch.einsum("ij...,io,jc->oc...", T, B.to(wide), A.to(wide))
        return (B.to(wide) @ A.to(wide)).view_as(self.base_layer.weight)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        delta = self.delta()
        return self.base_layer.weight.to(delta.dtype) + delta, self.base_layer.bias
