"""Weights in a few bits: block-wise quantization with a codebook, as QLoRA stores its base (arXiv:2305.14314, §2–3).

A weight w in a block of 64 is stored as the number of a level q in a codebook, beside one scale for the block:

    absmax = max |w| over the block,    code = argmin_i |w / absmax − q_i|,    ŵ = q_code · absmax.

The codes, scales and values of `NF4` and `FP4` are those of bitsandbytes, bit for bit. With `double=True` the scales
are quantized in turn: their mean is subtracted and the rest is stored in 8 bits with one second scale for 256 of them.
That second level is bitsandbytes' 8-bit dynamic map; the paper names an 8-bit float.

Left out: activations are never quantized, and no product is ever computed in 4 bits. QLoRA, too, dequantizes first.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import gcd, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---------------------------------------------------------------------------------------------------------- codebooks


@dataclass(frozen=True)
class Codebook:
    """The levels that a code can stand for, as fractions of the block's absmax.

    `values[code]` is the level of `code`, rounded to float32; the order is the order of storage and need not ascend.
    Between 2 and 256 levels; a `ValueError` otherwise, or if one is not finite.
    """

    name: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.values) <= 256:
            raise ValueError(f"a codebook has 2 to 256 values (1 to 8 bits); {self.name} was given {len(self.values)}")
        exact = torch.tensor(self.values, dtype=torch.float32, device="cpu")
        if not exact.isfinite().all():
            raise ValueError(f"the values of a codebook are finite in float32; {self.name} was given {self.values}")
        object.__setattr__(self, "values", tuple(exact.tolist()))

    @property
    def bits(self) -> int:
        """Bits that one code takes."""
        return (len(self.values) - 1).bit_length()

    @property
    def codes(self) -> tuple[int, ...]:
        """The codes, in ascending order of the levels that they stand for."""
        return tuple(sorted(range(len(self.values)), key=lambda code: self.values[code]))

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels, ascending."""
        return tuple(sorted(self.values))


# fmt: off
NF4 = Codebook("NF4", (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
))
# fmt: on
"""4-bit NormalFloat, quantiles of the normal distribution: the published float32 table (arXiv:2305.14314, app. E)."""

FP4 = Codebook(
    "FP4",
    tuple(sign * value / 12 for sign in (1, -1) for value in (0, 0.0625, 8, 12, 4, 6, 2, 3)),
)
"""bitsandbytes' 4-bit float, in its own order of codes, with two codes for zero.

Almost E2M1, which is `float_codebook(4)`: the smallest level is 0.0625/12 where E2M1 has 1/12. On normal weights that
costs a third more squared error.
"""

SIGN = (-0.5, 0.5)  # one bit has no room for a zero: the sign, at the middle of each half of the range


def check_bits(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise ValueError(f"bits must be a whole number from 1 to 8; given {bits!r}")


@cache
def integer_codebook(bits: int) -> Codebook:
    """Evenly spaced and symmetric: the integers −n … n over n = 2^(bits−1) − 1, one less than the bits could hold.

    4 bits give −7/7 … 7/7. One bit gives ±½.
    """
    check_bits(bits)
    largest = 2 ** (bits - 1) - 1
    return Codebook(f"INT{bits}", tuple(i / largest for i in range(-largest, largest + 1)) if bits > 1 else SIGN)


@cache
def normal_codebook(bits: int) -> Codebook:
    """NormalFloat of any width: 2^bits quantiles of the normal distribution (arXiv:2305.14314, §3), with an exact zero.

    Half the levels are positive, one is zero, the rest negative. The outermost probability leaves half a bin beyond the
    last level, averaged over the two halves. 4 bits are `NF4`. One bit gives ±½.
    """
    check_bits(bits)
    if bits == 1:
        return Codebook("NF1", SIGN)
    if bits == 4:
        return NF4  # the published table, to the last bit
    half = 2 ** (bits - 1)
    outermost = 1 - (1 / (4 * half - 2) + 1 / (4 * half)) / 2

    def quantiles(count: int) -> list[float]:
        probabilities = torch.linspace(outermost, 0.5, count + 1, dtype=torch.float64, device="cpu")
        return torch.special.ndtri(probabilities)[:-1].tolist()

    positive, negative = quantiles(half), quantiles(half - 1)
    levels = sorted([*positive, 0.0, *(-level for level in negative)])
    return Codebook(f"NF{bits}", tuple(level / max(positive) for level in levels))


@cache
def float_codebook(bits: int) -> Codebook:
    """A small float: sign, ⌊bits/2⌋ exponent bits, the rest mantissa; subnormals, but no infinity and no NaN.

    2 bits are E1M0, 3 E1M1, 4 E2M1, 5 E2M2, 6 E3M2, 7 E3M3, 8 E4M3. Zero counts once, so 2^bits − 1 levels. With one
    exponent bit they are evenly spaced, as `integer_codebook`. One bit in all gives ±½.
    """
    check_bits(bits)
    if bits == 1:
        return Codebook("FP1", SIGN)
    exponent_bits = bits // 2
    steps = 2 ** (bits - 1 - exponent_bits)  # mantissas per exponent
    subnormal = [mantissa / steps for mantissa in range(steps)]
    normal = [2.0**exponent * (1 + m / steps) for exponent in range(2**exponent_bits - 1) for m in range(steps)]
    magnitudes = subnormal + normal
    levels = sorted({sign * magnitude / magnitudes[-1] for magnitude in magnitudes for sign in (1, -1)})
    return Codebook(f"FP{bits} E{exponent_bits}M{bits - 1 - exponent_bits}", tuple(levels))


def _dynamic_codebook() -> Codebook:
    """256 signed levels: seven decades of 1, 2, 4 … 64 linear steps (arXiv:2110.02861), as bitsandbytes has them."""
    positive: list[float] = []
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32, device="cpu")
        positive += (10.0 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)).tolist()
    return Codebook("DYNAMIC8", tuple(sorted([*(-level for level in positive), 0.0, *positive, 1.0])))


DYNAMIC8 = _dynamic_codebook()
SECOND_BLOCK_SIZE = 256

# --------------------------------------------------------------------------------------------- quantize and dequantize


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """What `quantize` stores: four tensors, and the layout that `dequantize` needs to read them."""

    codes: Tensor  # uint8 (⌈values · bits / 8⌉,): codes packed without gaps, the first in the high bits
    absmax: Tensor  # float32 (blocks,); with double quantization the uint8 codes of absmax − offset in DYNAMIC8
    second_absmax: Tensor | None  # float32 (⌈blocks / 256⌉,), only with double quantization
    offset: Tensor | None  # float32 (), the mean of absmax, only with double quantization
    shape: torch.Size
    dtype: torch.dtype  # of the tensor that was quantized
    codebook: Codebook
    block_size: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        return self.codes, self.absmax, self.second_absmax, self.offset

    @property
    def layout(self) -> tuple[torch.Size, torch.dtype, Codebook, int]:
        return self.shape, self.dtype, self.codebook, self.block_size

    @property
    def nbytes(self) -> int:
        """Bytes held. The codebook is shared by all tensors that use it and counts for none."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor is not None)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / max(1, prod(self.shape))


def quantize(weight: Tensor, codebook: Codebook = NF4, block_size: int = 64, double: bool = False) -> QuantizedTensor:
    """Replace each weight by the nearest level of its block (arXiv:2305.14314, Eq. 1 and §3).

    Blocks run over the flattened tensor, whatever its shape; the last may be shorter. The arithmetic is float32.
    A block of zeros comes back as zeros; halfway between two levels the lower one wins. `double` quantizes the scales.

    Raises `TypeError` if `weight` is not floating, `ValueError` if it holds NaN or infinity or `block_size` < 1.
    """
    check_floating(weight)
    check_block_size(block_size)
    if double and 0.0 not in codebook.values:
        raise ValueError(
            f"double quantization moves the scale of a block of zeros off zero; {codebook.name} has no zero level"
        )
    codes, absmax = [], []
    for blocks in chunks_of_blocks(weight.detach(), block_size):
        blocks = blocks.float()
        largest = blocks.abs().amax(dim=1, keepdim=True)
        codes.append(nearest_codes(scale_to_one(blocks, largest, block_size), codebook).flatten())
        absmax.append(largest.flatten())
    scales = torch.cat(absmax)
    check_finite(scales, weight)
    filler = nearest_codes(scales.new_zeros(()), codebook)  # ends a half-filled byte, as in bitsandbytes
    packed = pack(torch.cat(codes), codebook.bits, int(filler))
    if not double:
        return QuantizedTensor(packed, scales, None, None, weight.shape, weight.dtype, codebook, block_size)
    offset = scales.mean() if len(scales) else scales.new_zeros(())
    second = quantize(scales - offset, DYNAMIC8, SECOND_BLOCK_SIZE)
    return QuantizedTensor(
        packed, second.codes, second.absmax, offset, weight.shape, weight.dtype, codebook, block_size
    )


def dequantize(quantized: QuantizedTensor, dtype: torch.dtype | None = None) -> Tensor:
    """level · absmax for each code: the shape that was quantized, in its dtype or in `dtype`, rounded from float32."""
    room = -(-len(quantized.absmax) * quantized.block_size // 8) * 8  # whole blocks, and whole bytes of codes
    return write(quantized, fresh_memory(room, dtype or quantized.dtype, quantized.codes.device))


def _absmax(quantized: QuantizedTensor) -> Tensor:
    """The scales, float32 (blocks,): as stored, or dequantized by the same function one level up."""
    if quantized.offset is None:
        return quantized.absmax
    codes, second_absmax = quantized.absmax, quantized.second_absmax
    assert second_absmax is not None
    second = QuantizedTensor(codes, second_absmax, None, None, codes.shape, torch.float32, DYNAMIC8, SECOND_BLOCK_SIZE)
    return dequantize(second) + quantized.offset


def check_floating(weight: Tensor) -> None:
    if not weight.is_floating_point():
        raise TypeError(f"only floating tensors can be quantized; given {weight.dtype}")


def check_block_size(block_size: int) -> None:
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size must be a whole number of at least 1; given {block_size!r}")


def check_finite(absmax: Tensor, weight: Tensor) -> None:
    """A NaN or an infinity shows in its block's absmax, so only when there is one does the whole weight need a look."""
    if absmax.isfinite().all():
        return
    bad = ~weight.detach().to(absmax.dtype).isfinite()
    raise ValueError(
        f"only finite values can be quantized; {int(bad.sum())} of {weight.numel()} are NaN or infinite in "
        f"{absmax.dtype}, the first at index {tuple(bad.nonzero()[0].tolist())}"
    )


def scale_to_one(blocks: Tensor, largest: Tensor, block_size: int) -> Tensor:
    """blocks / largest as bitsandbytes rounds it: times the reciprocal, but divided where the block is cut short."""
    largest = largest.clamp(min=1e-38)  # keeps the reciprocal finite; a block of zeros stays zero
    return blocks * largest.reciprocal() if blocks.shape[1] == block_size else blocks / largest


# ------------------------------------------------------------------------------------------------------ where speed is
# On a CPU this keeps up with bitsandbytes' compiled code, in its training mode, for five reasons:
# - A level is found by comparing with each midpoint: 15 vectorized comparisons take half the time of a binary search.
# - Two 4-bit codes are looked up at once, as one byte in a table of 256 pairs, which fits the L1 cache.
# - Both proceed in chunks that the L2 and L3 cache hold between one pass and the next.
# - A layer never holds Ŵ: it dequantizes a tile into memory that the L3 cache holds, multiplies, and goes on to the
#   next. Each number of the product is still one sum over all features, and rounded once.
# - The kernel clears fresh memory page by page as it is first touched. For 64 MiB in pages of 4 KiB that takes about
#   three times as long as all the arithmetic of `dequantize`, in pages of 2 MiB half as long as the arithmetic.

CHUNK = 2**19  # values: 2 MiB of float32
TILE = 2**23  # bytes of Ŵ
LARGE = 2**23  # bytes, from which memory is asked for in pages of 2 MiB


def chunks_of_blocks(weight: Tensor, block_size: int) -> Iterator[Tensor]:
    """The weight as (blocks, block_size), a chunk at a time, and at last (1, rest) if the last block is cut short."""
    flat = weight.reshape(-1)
    whole = flat.numel() - flat.numel() % block_size
    yield from flat[:whole].view(-1, block_size).split(max(1, CHUNK // block_size))
    if whole < flat.numel():
        yield flat[whole:].view(1, -1)


def nearest_codes(scaled: Tensor, codebook: Codebook) -> Tensor:
    """The code of the level nearest to each value, uint8, same shape. Halfway between two levels the lower one wins."""
    if len(codebook.values) > 16:
        midpoints = torch.tensor(_midpoints(codebook), dtype=scaled.dtype, device=scaled.device)
        rank = torch.bucketize(scaled, midpoints, out_int32=True)
    else:
        rank = torch.zeros_like(scaled, dtype=torch.uint8)
        above = torch.empty_like(scaled, dtype=torch.bool)
        for midpoint in _midpoints(codebook):
            rank += torch.gt(scaled, midpoint, out=above).view(torch.uint8)
    codes = codebook.codes
    if codes == tuple(range(len(codes))):
        return rank.to(torch.uint8)
    return torch.tensor(codes, dtype=torch.uint8, device=scaled.device)[rank.int()]


@cache
def _midpoints(codebook: Codebook) -> tuple[float, ...]:
    levels = torch.tensor(codebook.levels, dtype=torch.float32, device="cpu")
    return tuple(((levels[:-1] + levels[1:]) / 2).tolist())


def tiles(quantized: QuantizedTensor, dim: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Ŵ in tiles of whole rows (dim 0) or whole columns (dim 1): which ones, and their values in `dtype`.

    The next tile overwrites the values of the last. Where blocks straddle rows or end within a byte, Ŵ is one tile.
    """
    rows, columns = quantized.shape
    codebook, block_size, absmax = quantized.codebook, quantized.block_size, _absmax(quantized)
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


def fresh_memory(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`count` values, not initialized. Large memory lies in pages of 2 MiB where the system is Linux and allows it."""
    nbytes = count * dtype.itemsize
    if device.type != "cpu" or nbytes < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(count, dtype=dtype, device=device)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel built without such pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype)


def write(quantized: QuantizedTensor, values: Tensor) -> Tensor:
    """Write level · absmax for each code into `values`, (n,) with room for whole bytes; returns it shaped.

    The arithmetic is float32: in place if `values` is float32, else in a chunk of scratch memory.
    """
    codebook, block_size, numel = quantized.codebook, quantized.block_size, prod(quantized.shape)
    step = 8 * max(1, CHUNK // block_size // 8)  # eight blocks end at a whole byte, whatever the width of a code
    chunks = values.split(step * block_size)
    codes = quantized.codes.split(step * block_size * codebook.bits // 8)
    scratch = torch.empty_like(chunks[0], dtype=torch.float32) if values.dtype != torch.float32 else None
    for chunk, packed, absmax in zip(chunks, codes, _absmax(quantized).split(step), strict=True):
        levels = chunk if scratch is None else scratch[: len(chunk)]
        look_up(levels, packed, codebook)
        levels[: len(absmax) * block_size].view(-1, block_size).mul_(absmax[:, None])
        if scratch is not None:
            chunk.copy_(levels)
    values[numel:] = 0
    return values[:numel].view(quantized.shape)


def look_up(levels: Tensor, packed: Tensor, codebook: Codebook) -> None:
    """Write the level of each packed code: uint8 (n,) → the first ⌊8n / bits⌋ of `levels`, or all; float32."""
    table = _table(codebook, packed.device)
    if codebook.bits == 4:
        torch.index_select(table, 0, packed.int(), out=levels.view(torch.int64)[: len(packed)])
    else:
        codes = unpack(packed, codebook.bits, min(len(levels), 8 * len(packed) // codebook.bits))
        torch.index_select(table, 0, codes.int(), out=levels[: len(codes)])


@cache
def _table(codebook: Codebook, device: torch.device) -> Tensor:
    """values[code], float32; for 4 bits the two values of each byte, as one int64 of 8 bytes that is copied whole."""
    values = torch.zeros(2**codebook.bits, dtype=torch.float32, device=device)
    values[: len(codebook.values)] = torch.tensor(codebook.values, dtype=torch.float32, device=device)
    if codebook.bits != 4:
        return values
    byte = torch.arange(256, device=device)
    return torch.stack((values[byte >> 4], values[byte & 15]), dim=1).view(torch.int64).view(-1)


def pack(codes: Tensor, bits: int, filler: int = 0) -> Tensor:
    """Codes without gaps, the first in the high bits: uint8 (n,) → uint8 (⌈n · bits / 8⌉,), the last byte filled up."""
    group = 8 // gcd(8, bits)  # so many codes fill so many bytes: 2 fill 1 for 4 bits, 8 fill 3 for 3 bits
    width = bits // gcd(8, bits)
    groups = F.pad(codes, (0, -len(codes) % group), value=filler).view(-1, group)
    packed = torch.zeros(len(groups), width, dtype=torch.uint8, device=codes.device)
    for byte, code, shift in _overlaps(bits, group, width):
        packed[:, byte] |= _shift(groups[:, code], shift)
    return packed.view(-1)[: -(-len(codes) * bits // 8)]


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of what `pack` made: uint8 (count,)."""
    if bits == 8:
        return packed[:count]
    group = 8 // gcd(8, bits)
    width = bits // gcd(8, bits)
    groups = F.pad(packed, (0, -len(packed) % width)).view(-1, width)
    codes = torch.zeros(len(groups), group, dtype=torch.uint8, device=packed.device)
    for byte, code, shift in _overlaps(bits, group, width):
        codes[:, code] |= _shift(groups[:, byte], -shift) & (2**bits - 1)
    return codes.view(-1)[:count]


def _overlaps(bits: int, group: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Which byte of a group holds bits of which code, and how far to the left the code is shifted to lie in it."""
    for byte in range(width):
        for code in range(group):
            shift = 8 * (byte + 1) - bits * (code + 1)
            if -bits < shift < 8:
                yield byte, code, shift


def _shift(octets: Tensor, left: int) -> Tensor:
    return octets << left if left >= 0 else octets >> -left


# --------------------------------------------------------------------------------------------------------------- layer


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
    """

    codes: Tensor
    absmax: Tensor
    second_absmax: Tensor | None
    offset: Tensor | None

    def __init__(self, quantized: QuantizedTensor, bias: Tensor | None = None) -> None:
        super().__init__()
        if len(quantized.shape) != 2:
            raise ValueError(f"a linear weight is (out_features, in_features); given shape {tuple(quantized.shape)}")
        self.out_features, self.in_features = quantized.shape
        self.dtype, self.codebook, self.block_size = quantized.dtype, quantized.codebook, quantized.block_size
        for name in ("codes", "absmax", "second_absmax", "offset"):
            self.register_buffer(name, getattr(quantized, name))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, codebook: Codebook = NF4, block_size: int = 64, double: bool = False
    ) -> QuantizedLinear:
        """A new layer with the quantized weight of `linear`, a copy of its bias and its mode, training or eval.

        `linear` stays as it is.
        """
        return cls(quantize(linear.weight, codebook, block_size, double), linear.bias).train(linear.training)

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
        if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:  # autocast leaves float64 alone
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return _FrozenMatmul.apply(x, self.bias, self.quantized, 0)

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        """What `.to()` and its kin call. Scales change device but not dtype; `weight` takes the new dtype."""
        scales = {name: buffer for name, buffer in self.named_buffers() if buffer.is_floating_point()}
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.codes.device)).dtype
        super()._apply(fn, recurse)
        for name, buffer in scales.items():
            moved = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self

    def get_extra_state(self) -> Tensor:
        """What the buffers do not say: float32 (1 + levels,), the block size and then the codebook."""
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
    """Replace the model's `nn.Linear` modules by `layer.from_linear(linear, **options)` in place; return the model.

    `targets` are endings of module names, such as ("q_proj", "v_proj"). Without them every linear layer is replaced but
    the output head: the one whose weight is shared with another module or has the shape of an embedding.

    Raises `ValueError` if nothing is left to replace, or if a target shares its weight with another module.
    """
    linears = {name: m for name, m in model.named_modules(remove_duplicate=False) if type(m) is nn.Linear and name}
    shared = _shared_weights(model)
    embeddings = {m.weight.shape for m in model.modules() if isinstance(m, nn.Embedding)}
    if targets is None:
        chosen = {
            name: m for name, m in linears.items() if id(m.weight) not in shared and m.weight.shape not in embeddings
        }
    else:
        chosen = {}
        for target in targets:
            matches = {name: m for name, m in linears.items() if f".{name}".endswith(f".{target}")}
            if not matches:
                raise ValueError(f"no linear layer is named {target!r}; {_what_there_is(linears)}")
            chosen |= matches
        if tied := [name for name, m in chosen.items() if id(m.weight) in shared]:
            raise ValueError(f"{', '.join(tied)} shares its weight with another module and cannot be quantized alone")
    if not chosen:
        raise ValueError(f"there is no linear layer to quantize; {_what_there_is(linears)}")
    replaced: dict[nn.Linear, nn.Module] = {}  # a module that stands in two places is replaced by one
    for name, linear in chosen.items():
        if linear not in replaced:
            replaced[linear] = layer.from_linear(linear, **options)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, replaced[linear])
    return model


def _shared_weights(model: nn.Module) -> set[int]:
    """The ids of parameters that belong to more than one module."""
    owned = [id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False)]
    return {parameter for parameter in owned if owned.count(parameter) > 1}


def _what_there_is(linears: dict[str, nn.Linear]) -> str:
    names = sorted({name.rpartition(".")[2] for name in linears})
    return f"this model has {', '.join(names)}" if names else "this model has no nn.Linear"
