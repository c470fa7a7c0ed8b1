"""The linear layers that models are made of, read alike: W in floats, of shape (out_features, in_features).

    nn.Linear                             floats (out, in)
    QuantizedLinear, Q4Linear             codes, which their `dequantized` reads
    transformers' Conv1D                  floats (in, out): the layers of GPT-2
    bitsandbytes' Linear4bit              4-bit codes and their scales, in the format of `quantize`
    bitsandbytes' Linear8bitLt            int8 codes, one scale a row

Layers of other libraries are recognised by their class's full name: who has such a layer has imported its library, and
nobody else need install it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import is_lazy

POSSIBLE = "nn.Linear, QuantizedLinear, transformers' Conv1D, bitsandbytes' Linear4bit and Linear8bitLt"

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # narrower ones are codes that want a scale


class Dense:
    """Floats of shape (out, in), as in `nn.Linear`."""

    quantized = False

    def sizes(self, layer: Any) -> tuple[int, int]:
        return layer.out_features, layer.in_features

    def dtype(self, layer: Any) -> torch.dtype:
        return layer.weight.dtype

    def weight(self, layer: Any, dtype: torch.dtype) -> Tensor:
        return layer.weight.to(dtype)

    def check(self, layer: Any) -> None:
        """Raise TypeError unless the weight is what this kind of layer holds."""
        self._check_weight(layer.weight, self.sizes(layer), type(layer).__name__)

    @staticmethod
    def _check_weight(weight: Any, shape: tuple[int, int], name: str) -> None:
        if is_lazy(weight):
            raise TypeError(f"{name} has no weight yet: run the model once")
        if not isinstance(weight, Tensor) or weight.dtype not in FLOATS or tuple(weight.shape) != shape:
            given = f"{weight.dtype} {tuple(weight.shape)}" if isinstance(weight, Tensor) else type(weight).__name__
            raise TypeError(f"the weight of {name} is {given}, not floats of shape {shape}; possible: {POSSIBLE}")

    def kept(self, weight: Tensor) -> Tensor:
        """W (out, in) as the plain layer of this kind has it."""
        return weight

    def plain(self, known: Any, out_features: int, in_features: int, bias: bool) -> nn.Module:
        """Build a dense layer of this kind, without memory; `known` is the kind's class."""
        return nn.Linear(in_features, out_features, bias, device="meta")


class Codes(Dense):
    """A layer that dequantizes itself, to its own `dtype` or to one that is asked for."""

    quantized = True

    def dtype(self, layer: Any) -> torch.dtype:
        return layer.dtype

    def weight(self, layer: Any, dtype: torch.dtype) -> Tensor:
        return layer.dequantized(dtype)

    def check(self, layer: Any) -> None:
        pass


class Transposed(Dense):
    """Floats of shape (in, out). The plain layer is one, too, so that checkpoints of the model keep their shapes."""

    def sizes(self, layer: Any) -> tuple[int, int]:
        return layer.nf, layer.nx

    def weight(self, layer: Any, dtype: torch.dtype) -> Tensor:
        return layer.weight.T.to(dtype)

    def check(self, layer: Any) -> None:
        self._check_weight(layer.weight, self.sizes(layer)[::-1], type(layer).__name__)

    def kept(self, weight: Tensor) -> Tensor:
        return weight.T

    def plain(self, known: Any, out_features: int, in_features: int, bias: bool) -> nn.Module:
        with torch.device("meta"):
            return known(out_features, in_features)


class FourBit(Dense):
    """bitsandbytes' 4-bit codes. Until the layer is first moved to a device, its weight is still floats."""

    quantized = True

    def dtype(self, layer: Any) -> torch.dtype:
        state = _state(layer)
        return layer.weight.dtype if state is None else getattr(state, "original_dtype", state.dtype)

    def weight(self, layer: Any, dtype: torch.dtype) -> Tensor:
        from peft_lessons.quantization.foreign import from_bitsandbytes  # which is made of what this module is for

        state = _state(layer)
        return layer.weight.to(dtype) if state is None else from_bitsandbytes(layer.weight.data, state, dtype)

    def check(self, layer: Any) -> None:
        state = _state(layer)
        if state is None:
            super().check(layer)
        elif tuple(state.shape) != self.sizes(layer):
            raise TypeError(
                f"{type(layer).__name__} was quantized from a weight of shape {tuple(state.shape)}, not (out_features, "
                f"in_features) = {self.sizes(layer)}"
            )


class EightBit(Dense):
    """bitsandbytes' int8 codes: w = code · scale / 127, one scale a row. Of W's first dtype nothing is known."""

    quantized = True

    def dtype(self, layer: Any) -> torch.dtype:
        if layer.weight.is_floating_point():
            return layer.weight.dtype
        return torch.float32 if layer.bias is None else layer.bias.dtype

    def weight(self, layer: Any, dtype: torch.dtype) -> Tensor:
        if layer.weight.is_floating_point():
            return layer.weight.to(dtype)
        scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB  # the first forward pass moves them
        wide = torch.promote_types(dtype, torch.float32)
        return (layer.weight.data.to(wide) * (scales.to(wide) / 127)[:, None]).to(dtype)

    def check(self, layer: Any) -> None:
        if layer.weight.is_floating_point():
            super().check(layer)


CODES = Codes()
KINDS: dict[str, Dense] = {
    "torch.nn.modules.linear.Linear": Dense(),
    "transformers.pytorch_utils.Conv1D": Transposed(),
    "bitsandbytes.nn.modules.Linear4bit": FourBit(),
    "bitsandbytes.nn.modules.Linear8bitLt": EightBit(),
}


def known_as(layer: nn.Module) -> tuple[Dense, type[nn.Module]] | None:
    """How W is read, and the class of `layer`, or one that it derives from, whose forward is W x + b.

    None when `layer` is not linear.
    """
    for kind in type(layer).__mro__:
        if "dequantized" in vars(kind):
            return CODES, kind
        if found := KINDS.get(_full_name(kind)):
            return found, kind
    reads_alike = "weight" in layer._parameters or hasattr(type(layer), "weight")
    if reads_alike and all(hasattr(layer, name) for name in ("in_features", "out_features", "bias")):
        return KINDS["torch.nn.modules.linear.Linear"], nn.Linear
    return None


def is_linear(layer: nn.Module) -> bool:
    return known_as(layer) is not None


def is_quantized(layer: nn.Module) -> bool:
    known = known_as(layer)
    return known is not None and known[0].quantized


def is_plain(layer: nn.Module) -> bool:
    """Return whether `layer` is dense and of a known class itself, not of one that derives from it."""
    known = known_as(layer)
    return known is not None and type(layer) is known[1] and not known[0].quantized


def check_linear(layer: nn.Module, method: str) -> None:
    """Raise TypeError, which names what is possible, unless `layer` is linear and its weight can be read."""
    known = known_as(layer)
    if known is None:
        raise TypeError(f"{method} adapts linear layers, got {type(layer).__name__}; possible: {POSSIBLE}")
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        raise TypeError(
            f"{method} cannot adapt the output projection of nn.MultiheadAttention, which reads its weight and never "
            "calls it"
        )
    known[0].check(layer)


def sizes(layer: nn.Module) -> tuple[int, int]:
    """(out_features, in_features)"""
    return _known(layer)[0].sizes(layer)


def dtype_of(layer: nn.Module) -> torch.dtype:
    """Return the dtype of W, or the one that it was quantized from."""
    return _known(layer)[0].dtype(layer)


def read_weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """W in `dtype`, shape (out_features, in_features); codes are read at that precision and rounded once."""
    return _known(layer)[0].weight(layer, dtype)


def as_kept(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """W (out, in) and b as a plain layer in the place of `layer` has them: in its orientation, rounded to its dtype."""
    dtype, (kind, _) = dtype_of(layer), _plain_kind(layer)
    return kind.kept(weight).to(dtype), None if bias is None else bias.to(dtype)


def plain_layer(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Build a new frozen dense layer for the place of `layer`, with copies of W (out, in) and b, rounded to its dtype.

    Raises:
        TypeError: when the class of `layer` has a forward of its own: what that computes is not known.
    """
    kind, known = _known(layer)
    if type(layer).forward is not known.forward:
        raise TypeError(
            f"{type(layer).__name__} has a forward of its own, which a plain layer would not have; the merged weight "
            "can be read from the adapter's `weight`"
        )
    plain_kind, plain_class = _plain_kind(layer)
    plain = plain_kind.plain(plain_class, *kind.sizes(layer), bias is not None)
    for name, tensor in zip(("weight", "bias"), as_kept(layer, weight, bias), strict=True):
        if tensor is not None:
            copied = tensor.detach().clone(memory_format=torch.contiguous_format)
            setattr(plain, name, nn.Parameter(copied, requires_grad=False))
    return plain.train(layer.training)


def _plain_kind(layer: nn.Module) -> tuple[Dense, Any]:
    """How W lies in the plain layer for the place of `layer`, and its class: of codes, that of what was quantized."""
    made_from = getattr(layer, "made_from", None)
    return _known(layer) if made_from is None else (KINDS[_full_name(made_from)], made_from)


def plain_class(layer: nn.Module) -> type[nn.Module]:
    """Return the class of the plain layer for the place of `layer`."""
    kind, known = _plain_kind(layer)
    return nn.Linear if kind.quantized else known


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _known(layer: nn.Module) -> tuple[Dense, Any]:
    known = known_as(layer)
    if known is None:
        raise TypeError(f"{type(layer).__name__} is not a linear layer; possible: {POSSIBLE}")
    return known


def _state(layer: Any) -> Any:
    """bitsandbytes' QuantState. FSDP takes it from the weight, and the layer keeps another reference."""
    return getattr(layer.weight, "quant_state", None) or layer.quant_state
