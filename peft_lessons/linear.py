"""Methods of the form W + ΔW, on any layer that reads like `nn.Linear`."""

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.quantization import QuantizedLinear


class LinearAdapter(AdapterLayer):
    """An adapter on a linear layer: dense (`nn.Linear`) or quantized, whose `weight` dequantizes itself.

    Adapter weights are kept in `adapter_dtype`, fp32 also over a bf16 or 4-bit base: an update of 1e-4 is smaller than
    half a bf16 step at 0.1 and would be lost.

    Raises TypeError when `base_layer` is no linear layer, or one whose forward is never called.
    """

    base_layer: nn.Linear | QuantizedLinear

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        if not all(hasattr(base_layer, name) for name in ("in_features", "out_features", "bias")):
            raise TypeError(f"{type(self).__name__} adapts linear layers, got {type(base_layer).__name__}")
        if isinstance(base_layer, NonDynamicallyQuantizableLinear):
            raise TypeError(
                f"{type(self).__name__} cannot adapt the output projection of nn.MultiheadAttention, which reads its "
                "weight and never calls it"
            )
        super().__init__(base_layer, config)

    @property
    def adapter_dtype(self) -> torch.dtype:
        return torch.promote_types(self.base_dtype, torch.float32)

    @property
    def base_dtype(self) -> torch.dtype:
        # a quantized layer says its dtype without dequantizing its weight
        return self.base_layer.dtype if isinstance(self.base_layer, QuantizedLinear) else self.base_layer.weight.dtype

    def base_weight(self, dtype: torch.dtype) -> Tensor:
        """W in `dtype`, shape (out_features, in_features); 4-bit codes are read at that precision."""
        if isinstance(self.base_layer, QuantizedLinear):
            return self.base_layer.dequantized(dtype)
        return self.base_layer.weight.to(dtype)

    @property
    def device(self) -> torch.device:
        return next(chain(self.base_layer.parameters(), self.base_layer.buffers())).device

    @property
    def in_features(self) -> int:
        return self.base_layer.in_features

    @property
    def out_features(self) -> int:
        return self.base_layer.out_features


class DeltaLinear(LinearAdapter):
    """y = (W + ΔW) x + b, where a method says what ΔW is."""

    def delta(self) -> Tensor:
        """ΔW, shape (out_features, in_features), in the precision that merging needs (fp32 or higher)."""
        raise NotImplementedError

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A new `nn.Linear` with weight W + ΔW, summed in fp32 and rounded once, and its own copy of the bias."""
        base, delta = self.base_layer, self.delta()
        weight = self.base_weight(delta.dtype) + delta
        linear = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.to(self.base_dtype), requires_grad=False)
        if base.bias is not None:
            linear.bias = nn.Parameter(base.bias.clone(), requires_grad=False)
        return linear.train(self.training)
