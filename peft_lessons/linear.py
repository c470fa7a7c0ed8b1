"""What the methods for linear layers share: W in any storage, and a plain layer to fold into."""

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.quantization import QuantizedLinear

LLAMA_LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LinearAdapter(AdapterLayer):
    """An adapter on a linear layer: dense (`nn.Linear`) or quantized, whose `weight` dequantizes itself.

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

    def base_weight(self, dtype: torch.dtype) -> Tensor:
        """W in `dtype`, shape (out_features, in_features); 4-bit codes are read at that precision."""
        if isinstance(self.base_layer, QuantizedLinear):
            return self.base_layer.dequantized(dtype)
        return self.base_layer.weight.to(dtype)

    def folded(self, weight: Tensor, bias: Tensor | None) -> nn.Linear:
        """A new frozen `nn.Linear` with copies of `weight` and `bias`, each rounded once to the base's dtype."""
        linear = nn.Linear(self.in_features, self.out_features, bias=bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.detach().to(self.base_dtype, copy=True), requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach().to(self.base_dtype, copy=True), requires_grad=False)
        return linear.train(self.training)

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
        delta = self.delta()
        return self.folded(self.base_weight(delta.dtype) + delta, self.base_layer.bias)


class LowRank(NamedTuple):
    """What a module computes, as W x + L (R x)."""

    linear: nn.Linear  # W, without a bias
    left: Tensor  # (out_features, r); r is 0 where nothing is added
    right: Tensor  # (r, in_features)


@singledispatch
def factors(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """L (out_features, r) and R (r, in_features) of a layer that computes W x + b + L (R x); None for others.

    A method of this kind registers its layer here, beside the layer: `@factors.register(LoRALinear)`.
    """
    return None


def low_rank(module: nn.Module) -> LowRank | None:
    """What `module` computes now, with its adapter on or off and its parameters as they are; None for other modules."""
    if type(module) is nn.Linear and module.bias is None:
        out_features, in_features = module.weight.shape
        return LowRank(module, module.weight.new_empty(out_features, 0), module.weight.new_empty(0, in_features))
    if not isinstance(module, AdapterLayer):
        return None
    if (inner := module.now()) is not module:
        return low_rank(inner)
    base, added = low_rank(module.base_layer), factors(module)
    return None if base is None or added is None else LowRank(base.linear, *added)
