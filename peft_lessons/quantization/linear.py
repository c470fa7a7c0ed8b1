"""A frozen linear layer that holds its weight quantized, as in QLoRA, and how to put it into a model."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.bases import dtype_of, is_linear, is_plain, is_quantized, plain_class, read_weight
from peft_lessons.exact import autocasts, exact
from peft_lessons.quantization.codebooks import NF4, Codebook
from peft_lessons.quantization.cpu import fresh_memory, write
from peft_lessons.quantization.tensor import QuantizedTensor, dequantize, quantize

TILE = 2**23  # bytes of Ŵ


def tiles(quantized: QuantizedTensor, dim: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Ŵ in tiles of whole rows (dim 0) or whole columns (dim 1): which ones, and their values in `dtype`.

    The next tile overwrites the values of the last. Where blocks straddle rows or end within a byte, Ŵ is one tile.
    """
    rows, columns = quantized.shape
    codebook, block_size, absmax = quantized.codebook, quantized.block_size, quantized.scales
    if columns % block_size or block_size * codebook.bits % 8:
        yield slice(None), dequantize(quantized, dtype)
        return
    unit = block_size if dim else 1  # columns come by the block
    length = max(1, quantized.shape[1 - dim])
    step = max(1, TILE // (unit * length * dtype.itemsize))
    memory = fresh_memory(min(step * unit, quantized.shape[dim]) * length, dtype, absmax.device)
    by_block = quantized.codes.view(rows, columns // block_size, block_size * codebook.bits // 8)
    start = 0
    for codes, scales in zip(
        by_block.split(step, dim), absmax.view(rows, columns // block_size).split(step, dim), strict=True
    ):
        shape = torch.Size((scales.shape[0], scales.shape[1] * block_size))
        tile = QuantizedTensor(codes.flatten(), scales.flatten(), None, None, shape, dtype, codebook, block_size)
        yield slice(start, start + shape[dim]), write(tile, memory[: shape.numel()])
        start += shape[dim]


class _FrozenMatmul(torch.autograd.Function):
    """x Ŵᵀ + b (dim 0), and its derivative g Ŵ (dim 1), each a tile of Ŵ at a time.

    Saves the codes, not Ŵ, and dequantizes again in backward. Ŵ is frozen, so x need not be saved.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, quantized: QuantizedTensor, dim: int) -> Tensor:
        ctx.save_for_backward(*quantized.tensors)
        ctx.layout, ctx.dim = quantized.layout, dim
        b = None if bias is None else bias.to(x.dtype)
        parts = tiles(quantized, dim, x.dtype)
        return torch.cat([F.linear(x, (W, W.T)[dim], None if b is None else b[part]) for part, W in parts], dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        x_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            quantized = QuantizedTensor(*ctx.saved_tensors, *ctx.layout)
            x_gradient = _FrozenMatmul.apply(gradient, None, quantized, 1 - ctx.dim)
        if ctx.needs_input_grad[1]:
            bias_gradient = gradient.reshape(-1, gradient.shape[-1]).sum(dim=0)
        return x_gradient, bias_gradient, None, None


class QuantizedLinear(nn.Module):
    """A frozen linear layer that holds its weight quantized and reads like `nn.Linear`.

    `weight` is dequantized at each reading, (out_features, in_features), in the dtype that the layer was made with or
    last cast to. `forward` computes in the dtype of x (or of autocast). Codes and scales are buffers: they move, are
    saved and loaded with the module, and a cast never rounds them.

    Raises:
        ValueError: for a tensor of other than two dimensions.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import NF4, QuantizedLinear
        >>> layer = QuantizedLinear.from_linear(nn.Linear(128, 64), codebook=NF4, block_size=64, double=True)
        >>> layer(torch.ones(3, 128)).shape, layer.weight.shape
        (torch.Size([3, 64]), torch.Size([64, 128]))
        >>> layer.codes.dtype, layer.codes.shape
        (torch.uint8, torch.Size([4096]))
    """

    codes: Tensor
    absmax: Tensor
    second_absmax: Tensor | None
    offset: Tensor | None

    def __init__(
        self, quantized: QuantizedTensor, bias: Tensor | None = None, made_from: type[nn.Module] = nn.Linear
    ) -> None:
        super().__init__()
        if len(quantized.shape) != 2:
            raise ValueError(f"a linear weight is (out_features, in_features); given shape {tuple(quantized.shape)}")
        self.out_features, self.in_features = quantized.shape
        self.dtype, self.codebook, self.block_size = quantized.dtype, quantized.codebook, quantized.block_size
        for name in ("codes", "absmax", "second_absmax", "offset"):
            self.register_buffer(name, getattr(quantized, name))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.made_from = made_from  # what merging makes again

    @classmethod
    @exact()
    def from_linear(
        cls, linear: nn.Linear, codebook: Codebook = NF4, block_size: int = 64, double: bool = False
    ) -> QuantizedLinear:
        """Build a new layer with the quantized weight of `linear`, a copy of its bias and its mode, training or eval.

        `linear` stays as it is.
        """
        weight = read_weight(linear, dtype_of(linear))
        quantized = quantize(weight, codebook, block_size, double)
        return cls(quantized, linear.bias, plain_class(linear)).train(linear.training)

    @property
    def quantized(self) -> QuantizedTensor:
        shape = torch.Size((self.out_features, self.in_features))
        return QuantizedTensor(
            self.codes, self.absmax, self.second_absmax, self.offset, shape, self.dtype, self.codebook, self.block_size
        )

    @property
    def weight(self) -> Tensor:
        return self.dequantized()

    def dequantized(self, dtype: torch.dtype | None = None) -> Tensor:
        """`weight`, or the same rounded to `dtype` alone, not to the layer's own dtype first."""
        return dequantize(self.quantized, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features)"""
        if autocasts(x.device.type) and x.dtype != torch.float64:  # autocast leaves float64 alone
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return _FrozenMatmul.apply(x, self.bias, self.quantized, 0)

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        """Move as `.to()` and its kin ask. Scales change device but not dtype; `weight` takes the new dtype."""
        scales = {name: buffer for name, buffer in self.named_buffers() if buffer.is_floating_point()}
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.codes.device)).dtype
        super()._apply(fn, recurse)
        for name, buffer in scales.items():
            moved = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self

    def get_extra_state(self) -> Tensor:
        """Return what the buffers do not say: float32 (1 + levels,), the block size and then the codebook."""
        return torch.tensor((self.block_size, *self.codebook.values), dtype=torch.float32, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        if state.tolist() != self.get_extra_state().tolist():
            raise ValueError(
                f"the saved codes are read with {len(state) - 1} levels in blocks of {int(state[0])}, or with other "
                f"levels; this layer reads them with {self.codebook.name} in blocks of {self.block_size}"
            )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"codebook={self.codebook.name}, block_size={self.block_size}, double={self.offset is not None}"
        )


def quantize_model(
    model: nn.Module, targets: tuple[str, ...] | None = None, layer: Any = QuantizedLinear, **options: Any
) -> nn.Module:
    """Replace linear layers of the model by `layer.from_linear(linear, **options)` in place; return the model.

    `targets` are endings of module names, such as ("q_proj", "v_proj"). Without them every linear layer of the model's
    blocks is replaced: of what an `nn.ModuleList`, or an `nn.Sequential` or `nn.ModuleDict` of one class, holds. In a
    model without blocks all are, but one of the shape of an embedding. So the output head stays, as does a new
    classifier, and what shares its weight with another module. A warning names each layer that stays and why, but for
    a tied head.

    Linear layers are `nn.Linear` and transformers' Conv1D, not classes that derive from them.

    After an error the model is as it was.

    Raises:
        ValueError: if nothing is left to replace, if a target shares its weight with another module, if a weight is
            not finite, or if the model has adapters: they start from the weight that they found.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import quantize_model
        >>> model = nn.ModuleDict({"q_proj": nn.Linear(64, 64), "head": nn.Linear(64, 2)})
        >>> model = quantize_model(model, targets=("q_proj",))
        >>> [type(module).__name__ for module in model.children()]
        ['QuantizedLinear', 'Linear']
    """
    if adapted := [name for name, _ in model.named_modules() if "base_layer" in name.split(".")]:
        raise ValueError(f"the model has adapters ({adapted[0]} …): quantize the model first, then inject them")
    modules = dict(model.named_modules(remove_duplicate=False))
    dense = {name: m for name, m in modules.items() if name and is_linear(m) and not is_quantized(m)}
    plain = {name: m for name, m in dense.items() if is_plain(m)}
    chosen, left = _choose(model, dense) if targets is None else (_named(model, plain, targets), {})
    if not chosen:
        raise ValueError(f"there is no linear layer to quantize; {_what_there_is(plain)}")
    replaced: dict[nn.Module, nn.Module] = {}  # a module that stands in two places is replaced by one
    for name, linear in chosen.items():
        if linear not in replaced:
            try:
                replaced[linear] = layer.from_linear(linear, **options)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    if left:
        listed = ", ".join(f"{name} ({why})" for name, why in list(left.items())[:6])
        more = f" and {len(left) - 6} more" if len(left) > 6 else ""
        warnings.warn(f"not quantized: {listed}{more}. With targets you choose for yourself", stacklevel=2)
    for name, linear in chosen.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, replaced[linear])
    return model


def _named(model: nn.Module, linears: dict[str, nn.Module], targets: tuple[str, ...]) -> dict[str, nn.Module]:
    chosen: dict[str, nn.Module] = {}
    for target in targets:
        matches = {name: m for name, m in linears.items() if f".{name}".endswith(f".{target}")}
        if not matches:
            raise ValueError(f"no linear layer is named {target!r}; {_what_there_is(linears)}")
        chosen |= matches
    shared = _shared_weights(model)
    if tied := [name for name, m in chosen.items() if id(m.weight) in shared]:
        raise ValueError(f"{', '.join(tied)} shares its weight with another module and cannot be quantized alone")
    return chosen


def _choose(model: nn.Module, dense: dict[str, nn.Module]) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Which layers to quantize, and why others are left, but for the head that an embedding is tied to."""
    shared = _shared_weights(model)
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    tied, shapes = {id(weight) for weight in embeddings}, {weight.shape for weight in embeddings}
    modules = dict(model.named_modules(remove_duplicate=False))
    prefixes = tuple(f"{name}." if name else "" for name, module in modules.items() if _repeats(module))
    has_blocks = any(name.startswith(prefixes) for name in dense)
    chosen: dict[str, nn.Module] = {}
    left: dict[str, str] = {}
    for name, module in modules.items():
        outside = has_blocks and not name.startswith(prefixes)
        if name not in dense:
            if not outside and not is_linear(module) and not isinstance(module, nn.Embedding):
                matrices = (key for key, parameter in module.named_parameters(recurse=False) if parameter.ndim > 1)
                left |= {f"{name}.{key}" if name else key: "not of a linear layer" for key in matrices}
        elif id(module.weight) in tied:
            continue
        elif not is_plain(module):
            left[name] = f"a {type(module).__name__}"
        elif id(module.weight) in shared:
            left[name] = "shares its weight"
        elif outside:
            left[name] = "outside of the blocks"
        elif not has_blocks and module.weight.shape in shapes:
            left[name] = "of the shape of an embedding"
        else:
            chosen[name] = module
    return chosen, left


def _repeats(module: nn.Module) -> bool:
    """Return whether a module holds blocks, not single layers. A Sequential of several classes may be a head."""
    blocks = list(module.children())
    if any(map(is_linear, blocks)):
        return False
    if isinstance(module, nn.Sequential | nn.ModuleDict):
        return len({type(block) for block in blocks}) == 1
    return isinstance(module, nn.ModuleList)


def _shared_weights(model: nn.Module) -> set[int]:
    """Return the ids of parameters that belong to more than one module."""
    owners = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    return {parameter for parameter, count in owners.items() if count > 1}


def _what_there_is(linears: dict[str, nn.Module]) -> str:
    names = sorted({name.rpartition(".")[2] for name in linears})
    return f"this model has {', '.join(names)}" if names else "this model has no nn.Linear"
