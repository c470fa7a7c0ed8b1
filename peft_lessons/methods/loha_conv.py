"""LoHa on convolutions: the kernel as a matrix with one row for each output (LoHa: arXiv:2108.06098, arXiv:2309.14859).

    ΔK = (α/r) (B₁A₁) ⊙ (B₂A₂), folded into K's shape        B (out_channels, r), A (r, in_channels / groups · places)

Left out: FedPara's own factorization of kernels by tensors, peft's `use_effective_conv2d`.
"""

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from peft_lessons.adapters import AdapterLayer

if TYPE_CHECKING:
    from peft_lessons.methods.loha import LoHaConfig

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LoHaConv(AdapterLayer):
    """A convolution and the update of its kernel. x: (batch, in_channels, …) → (batch, out_channels, …)."""

    base_layer: nn.Conv1d | nn.Conv2d | nn.Conv3d
    config: "LoHaConfig"

    def __init__(self, base_layer: nn.Module, config: "LoHaConfig") -> None:
        super().__init__(base_layer, config)
        rows, columns = self.base_layer.weight.flatten(1).shape
        self.loha_B1 = self.new_parameter(rows, config.rank)
        self.loha_A1 = self.new_parameter(config.rank, columns)
        self.loha_B2 = self.new_parameter(rows, config.rank)
        self.loha_A2 = self.new_parameter(config.rank, columns)  # zero, so that ΔK starts at zero
        for matrix in (self.loha_B1, self.loha_A1, self.loha_B2):
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def adapted(self, x: Tensor) -> Tensor:
        K = self.base_layer.weight
        return functional_call(self.base_layer, {"weight": K + self.delta().to(K.dtype)}, (x,))

    def delta(self) -> Tensor:
        """ΔK in the shape of K, in fp32 or higher."""
        wide = torch.promote_types(self.loha_A1.dtype, torch.float32)
        B_1, A_1, B_2, A_2 = (t.to(wide) for t in (self.loha_B1, self.loha_A1, self.loha_B2, self.loha_A2))
        update = self.config.alpha / self.config.rank * (B_1 @ A_1) * (B_2 @ A_2)
        return update.view_as(self.base_layer.weight)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A new frozen convolution of the same kind with kernel K + ΔK, summed in fp32 and rounded once."""
        conv, delta = copy.deepcopy(self.base_layer).requires_grad_(False).train(self.training), self.delta()
        conv.weight.data = (conv.weight.to(delta.dtype) + delta).to(conv.weight.dtype)
        return conv
