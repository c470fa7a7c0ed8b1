"""What the methods for convolutions share: the kernel K in one to three dimensions, and a convolution to fold into."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.exact import exact

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
FUNCTIONS: dict[int, Any] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}  # by the dimensions of K


class ConvAdapter(AdapterLayer):
    """An adapter on a convolution over one to three dimensions. A method writes `adapted(x)` and `folded()`.

    Raises:
        TypeError: when `base_layer` is none, has no weight yet, or is of a class with a forward of its own.
    """

    base_layer: nn.Conv1d | nn.Conv2d | nn.Conv3d  # K (out_channels, in_channels / groups, k…), b (out_channels,)

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        name = type(base_layer).__name__
        if type(base_layer).forward not in [kind.forward for kind in CONVOLUTIONS]:
            raise TypeError(f"{type(self).__name__} adapts an nn.Conv1d, nn.Conv2d or nn.Conv3d, got {name}")
        super().__init__(base_layer, config)
        if is_lazy(self.base_layer.weight):
            raise TypeError(f"{name} has no weight yet: run the model once")

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """K and b with the update in them, in fp32 or higher."""
        raise TypeError(f"{type(self).__name__} cannot be folded into a plain convolution")

    def merged_tensor(self, name: str) -> Tensor | None:
        tensor = dict(zip(("weight", "bias"), self.folded(), strict=True))[name]
        return None if tensor is None else tensor.to(self.base_layer.weight.dtype)

    @exact()
    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Build a new frozen convolution with `folded`'s kernel and bias, each rounded once to the base's dtype."""
        base, bias = self.base_layer, self.merged_tensor("bias")
        kind: Any = next(kind for kind in CONVOLUTIONS if isinstance(base, kind))
        plain = kind(
            base.in_channels, base.out_channels, base.kernel_size, base.stride, base.padding, base.dilation,
            base.groups, bias is not None, base.padding_mode, device="meta",
        )  # fmt: skip
        for name, tensor in (("weight", self.merged_tensor("weight")), ("bias", bias)):
            if tensor is not None:
                setattr(plain, name, nn.Parameter(tensor.detach().clone(), requires_grad=False))
        return plain.train(self.training)

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """`x` through `kernel` (r, in_channels, k…), with stride, padding and dilation of the base: r channels."""
        base = self.base_layer
        convolution, settings = FUNCTIONS[kernel.ndim], {"stride": base.stride, "dilation": base.dilation}
        if base.padding_mode == "zeros":
            return convolution(x, kernel, padding=base.padding, **settings)
        return convolution(F.pad(x, base._reversed_padding_repeated_twice, mode=base.padding_mode), kernel, **settings)

    def mix(self, x: Tensor, matrix: Tensor) -> Tensor:
        """`x` (…, r, places…) → (…, out_channels, places…) by `matrix` (out_channels, r / groups, 1…) at each place.

        The outputs of a group read the channels of that group alone.
        """
        return FUNCTIONS[matrix.ndim](x, matrix, groups=self.base_layer.groups)

    def per_output(self, vector: Tensor) -> Tensor:
        """(out_channels,) → (out_channels, 1…), which goes with the outputs of a batch or of one sample."""
        return vector.view(-1, *(1 for _ in self.base_layer.kernel_size))
