"""LoRA on a convolution, as in Hugging Face peft and LyCORIS (arXiv:2309.14859, §3.1).

    h = W₀ ∗ x + (α/r) B ∗ (A ∗ x)        W₀ (out, in, k…) frozen, A (r, in, k…), B (out, r, 1…)

A convolves with the stride, padding and dilation of W₀ down to r channels; B mixes these at each place. With W written
as a matrix (out, in · k…) this is LoRA: ΔW = (α/r) B A. A starts random and B at zero.

Left out: grouped convolutions, whose channels do not all meet; transposed ones.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterLayer
from peft_lessons.exact import exact

if TYPE_CHECKING:
    from peft_lessons.methods.lora import LoRAConfig

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LoRAConv(AdapterLayer):
    """A convolution over one to three dimensions and its low-rank update. (batch, in, …) → (batch, out, …).

    Raises TypeError for a grouped convolution, and for a class with a forward of its own.
    """

    base_layer: nn.Conv1d | nn.Conv2d | nn.Conv3d
    config: "LoRAConfig"

    def __init__(self, base_layer: nn.Module, config: "LoRAConfig") -> None:
        super().__init__(base_layer, config)
        if self.base_layer.groups != 1 or type(base_layer).forward not in [kind.forward for kind in CONVOLUTIONS]:
            raise TypeError(
                f"LoRAConv adapts an nn.Conv1d, nn.Conv2d or nn.Conv3d of one group, got {type(base_layer).__name__} "
                f"with groups={self.base_layer.groups}"
            )
        out_channels, *window = self.base_layer.weight.shape
        self.lora_A = self.new_parameter(config.rank, *window)
        self.lora_B = self.new_parameter(out_channels, config.rank, *(1 for _ in window[1:]))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def adapted(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        A, B = self.lora_A.to(y.dtype), self.lora_B.to(y.dtype).flatten(1)
        channels = self.base_layer._conv_forward(self.dropout(x).to(y.dtype), A, None)  # stride, padding and the rest
        first = -self.lora_A.ndim + 1  # the dimension of channels, with or without a batch before it
        return y + self.config.scaling * (channels.movedim(first, -1) @ B.T).movedim(-1, first)

    @exact()
    def delta(self) -> Tensor:
        """ΔW, shape (out, in, k…), in fp32 or higher."""
        wide = torch.promote_types(self.lora_A.dtype, torch.float32)
        product = self.lora_B.to(wide).flatten(1) @ self.lora_A.to(wide).flatten(1)
        return self.config.scaling * product.view(self.base_layer.weight.shape)

    def merged_tensor(self, name: str) -> Tensor | None:
        base = self.base_layer
        if name == "bias":
            return base.bias
        delta = self.delta()
        return (base.weight.to(delta.dtype) + delta).to(base.weight.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A new frozen convolution with the weight W + ΔW, summed in fp32 and rounded once, and its own bias."""
        base = self.base_layer
        kind: type[nn.Module] = next(kind for kind in CONVOLUTIONS if isinstance(base, kind))
        plain = kind(
            base.in_channels, base.out_channels, base.kernel_size, base.stride, base.padding, base.dilation,
            bias=base.bias is not None, padding_mode=base.padding_mode, device="meta",
        )  # fmt: skip
        for name, _ in list(plain.named_parameters()):
            tensor = self.merged_tensor(name)
            assert tensor is not None
            setattr(plain, name, nn.Parameter(tensor.detach().clone(), requires_grad=False))
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return f"rank={self.config.rank}, alpha={self.config.alpha:g}"
