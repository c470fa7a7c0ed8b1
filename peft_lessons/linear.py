"""What the methods for linear layers share: W in any storage, and a plain layer to fold into."""

from functools import singledispatch
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.bases import as_kept, check_linear, plain_layer, read_weight, sizes
from peft_lessons.exact import exact

LLAMA_LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LinearAdapter(AdapterLayer):
    """An adapter on a linear layer, of any kind in `bases`. A method writes `adapted(x)` and `folded()`.

    Raises:
        TypeError: when `base_layer` is no linear layer, or one whose weight cannot be read.
    """

    base_layer: Any  # of the kinds in `bases`; its `weight` need not be W

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        check_linear(base_layer, type(self).__name__)
        super().__init__(base_layer, config)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """W (out_features, in_features) and b (out_features,) with the update in them, in fp32 or higher."""
        raise TypeError(f"{type(self).__name__} cannot be folded into a plain layer")

    @exact()
    def merged(self) -> nn.Module:
        """A new frozen layer with the weight and bias of `folded`, each rounded once to the base's dtype.

        It is an `nn.Linear`; in place of a Conv1D a Conv1D.
        """
        with torch.no_grad():
            return plain_layer(self.base_layer, *self.folded())

    def base_weight(self, dtype: torch.dtype) -> Tensor:
        """W in `dtype`, shape (out_features, in_features); 4-bit codes are read at that precision."""
        return read_weight(self.base_layer, dtype)

    def merged_tensor(self, name: str) -> Tensor | None:
        """The "weight" or "bias" of `merged`, which can be differentiated."""
        return dict(zip(("weight", "bias"), as_kept(self.base_layer, *self.folded()), strict=True))[name]

    @property
    def in_features(self) -> int:
        return sizes(self.base_layer)[1]

    @property
    def out_features(self) -> int:
        return sizes(self.base_layer)[0]


class DeltaLinear(LinearAdapter):
    """y = (W + ΔW) x + b, where a method says what ΔW is."""

    def delta(self) -> Tensor:
        """ΔW, shape (out_features, in_features), in the precision that merging needs (fp32 or higher)."""
        raise NotImplementedError

    def folded(self) -> tuple[Tensor, Tensor | None]:
        delta = self.delta()
        return self.base_weight(delta.dtype) + delta, self.base_layer.bias


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
