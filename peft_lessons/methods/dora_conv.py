"""DoRA on a convolution, as in Hugging Face peft (DoRA: arXiv:2402.09353, Eq. 5 and §4.3).

    V = W₀ + s B A,    h = (m / ‖V‖) ⊙ (V ∗ x) + b        V (out, in, k…), m (1, out, 1…) starts as ‖W₀‖

One norm for each output channel, over all that it reads; as in `dora.py` it is a constant in the backward pass, and the
bias is outside of the scaling. Left out: convolutions of several groups, where V is no kernel of this convolution.
"""

import torch
from torch import Tensor, nn

from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.lora_conv import LoRAConv


class DoRAConv(LoRAConv):
    """A convolution whose outputs are turned by LoRA and scaled by m. (batch, in, …) → (batch, out, …).

    Raises:
        TypeError: for a convolution of several groups.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import DoRAConfig, DoRAConv
        >>> layer = DoRAConv(nn.Conv2d(3, 6, 3), DoRAConfig(rank=2))
        >>> layer(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 6, 6, 6])
        >>> layer.magnitude.shape
        torch.Size([1, 6, 1, 1])
    """

    def __init__(self, base_layer: nn.Module, config: LoRAConfig) -> None:
        super().__init__(base_layer, config)
        self.magnitude = nn.Parameter(self.per_output(self.lengths())[None])  # as peft stores it

    def directions(self) -> Tensor:
        """V = W₀ + s B A, (out, in, k…), in fp32 or higher."""
        return super().folded()[0]

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """‖V‖ of each output, (out,); an output of zeros has a smallest length, by which one can divide."""
        V = self.directions()
        return V.flatten(1).norm(dim=1).clamp_min(torch.finfo(V.dtype).tiny)

    def scale(self) -> Tensor:
        """m / ‖V‖, (out,)"""
        return self.magnitude.flatten() / self.lengths()

    def adapted(self, x: Tensor) -> Tensor:
        y, bias = self.base_layer(x), self.base_layer.bias
        scale = self.per_output(self.scale())
        product = y if bias is None else y - self.per_output(bias).to(y.dtype)
        # as in `dora.py`: exactly y while the scale is 1
        return y + (scale - 1).to(y.dtype) * product + scale.to(y.dtype) * self.update(x, y.dtype)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        V = self.directions()
        return self.scale().view(-1, *(1 for _ in V.shape[1:])) * V, self.base_layer.bias
