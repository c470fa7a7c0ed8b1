"""Simulated quantization: values are rounded to what few bits can hold, but kept in their dtype. No byte is saved.

It answers in a moment what a number of bits, a set of levels and a scale per tensor, channel or block do to a weight.
`quantization` stores the same levels for real: `fake_quantize(w, 4, "normal", "block")` equals
`dequantize(quantize(w, NF4))`, bit for bit.

Two families. *Symmetric*, *normal* and *float* levels are multiples of the group's largest magnitude and hold zero
exactly (one bit: the sign, at half that magnitude). *Affine* levels are evenly spaced from the group's minimum to its
maximum (one bit: these two), as in GGUF's Q4_1; zero is a level only by luck.
"""

from __future__ import annotations

from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from peft_lessons.bases import dtype_of, read_weight
from peft_lessons.exact import exact
from peft_lessons.quantization.codebooks import Codebook, check_bits, float_codebook, integer_codebook, normal_codebook
from peft_lessons.quantization.cpu import chunks_of_blocks, nearest_codes
from peft_lessons.quantization.tensor import check_block_size, check_finite, check_floating, scale_to_one

Scheme = Literal["symmetric", "affine", "normal", "float"]
Granularity = Literal["tensor", "channel", "block"]

CODEBOOKS = {"symmetric": integer_codebook, "normal": normal_codebook, "float": float_codebook}


def fake_quantize(
    x: Tensor,
    bits: int,
    scheme: Scheme = "symmetric",
    granularity: Granularity = "tensor",
    block_size: int = 64,
) -> Tensor:
    """x with each value rounded to one of at most 2^bits levels of its group; shape, dtype and device stay.

    A group is the whole tensor, a channel (one index of the first dimension: a row of a linear weight), or `block_size`
    consecutive values of the flattened tensor. Half precision is computed in float32, float64 in float64.

    The gradient passes straight through, as if nothing had been rounded (arXiv:1308.3432, §4): rounding itself has
    the gradient zero, and nothing could be learnt through it.

    Raises:
        TypeError: if x is not floating.
        ValueError: if it holds NaN or infinity, if bits are not 1 to 8, and if scheme, granularity or block size
            are not among what is possible.

    Examples:
        >>> import torch
        >>> from peft_lessons import fake_quantize
        >>> fake_quantize(torch.tensor([-1.0, 0.4, 0.6, 1.0]), bits=2)
        tensor([-1.,  0.,  1.,  1.])
        >>> fake_quantize(torch.tensor([0.0, 1.2, 2.9, 3.0]), bits=2, scheme="affine")
        tensor([0., 1., 3., 3.])
    """
    check_floating(x)
    check_bits(bits)
    _check_choice("scheme", scheme, get_args(Scheme))
    _check_choice("granularity", granularity, get_args(Granularity))
    check_block_size(block_size)
    if granularity == "channel" and x.dim() < 2:
        raise ValueError(f"channels are the rows of at least two dimensions; given shape {tuple(x.shape)}")
    size = {"tensor": x.numel(), "channel": prod(x.shape[1:]), "block": block_size}[granularity]
    rounded = []
    for blocks in chunks_of_blocks(x.detach(), max(1, size)):
        blocks = blocks.to(torch.promote_types(x.dtype, torch.float32))
        absmax = blocks.abs().amax(dim=1, keepdim=True)
        check_finite(absmax, x)
        if scheme == "affine":
            values = _round_affine(blocks, bits)
        else:
            values = _round_to_codebook(blocks, absmax, size, CODEBOOKS[scheme](bits))
        rounded.append(values.flatten().to(x.dtype))
    return torch.cat(rounded).view(x.shape) + (x - x.detach())  # the bracket is zero, and carries the gradient


def _round_to_codebook(blocks: Tensor, absmax: Tensor, block_size: int, codebook: Codebook) -> Tensor:
    codes = nearest_codes(scale_to_one(blocks, absmax, block_size), codebook)
    values = torch.tensor(codebook.values, dtype=blocks.dtype, device=blocks.device)
    return values[codes.int()] * absmax


def _round_affine(blocks: Tensor, bits: int) -> Tensor:
    low, high = blocks.aminmax(dim=1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    if not step.isfinite().all():
        raise ValueError(f"the range of the values, {low.min():g} to {high.max():g}, overflows {blocks.dtype}")
    step = step.where(step > 0, 1)  # a constant is its own minimum
    return low + step * ((blocks - low) / step).round()


def _check_choice(name: str, given: str, possible: tuple[str, ...]) -> None:
    if given not in possible:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, possible))}; given {given!r}")


class FakeQuantizedLinear(nn.Linear):
    """An `nn.Linear` whose weight was rounded once, by `fake_quantize`, and is frozen, as is its bias.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import FakeQuantizedLinear
        >>> layer = FakeQuantizedLinear.from_linear(nn.Linear(8, 4), bits=2, granularity="channel")
        >>> layer.weight.shape, len(layer.weight[0].unique()) <= 3
        (torch.Size([4, 8]), True)
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        bits: int,
        scheme: Scheme = "symmetric",
        granularity: Granularity = "tensor",
        block_size: int = 64,
    ) -> None:
        out_features, in_features = weight.shape
        super().__init__(in_features, out_features, bias=bias is not None, device="meta")
        rounded = fake_quantize(weight.detach(), bits, scheme, granularity, block_size)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.bits, self.scheme, self.granularity, self.block_size = bits, scheme, granularity, block_size

    @classmethod
    @exact()
    def from_linear(
        cls,
        linear: nn.Linear,
        bits: int,
        scheme: Scheme = "symmetric",
        granularity: Granularity = "tensor",
        block_size: int = 64,
    ) -> FakeQuantizedLinear:
        """Build a new layer with the rounded weight of `linear`, a copy of its bias and its mode, training or eval.

        `linear` stays as it is.
        """
        weight = read_weight(linear, dtype_of(linear))
        return cls(weight, linear.bias, bits, scheme, granularity, block_size).train(linear.training)

    def extra_repr(self) -> str:
        group = f"block of {self.block_size}" if self.granularity == "block" else self.granularity
        return f"{super().extra_repr()}, bits={self.bits}, scheme={self.scheme}, one scale per {group}"
