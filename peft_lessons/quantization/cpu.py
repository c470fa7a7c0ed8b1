"""Where the speed of quantization on a CPU comes from.

On a CPU this keeps up with bitsandbytes' compiled code, in its training mode, for five reasons:
- A level is found by comparing with each midpoint: 15 vectorized comparisons take half the time of a binary search.
- Two 4-bit codes are looked up at once, as one byte in a table of 256 pairs, which fits the L1 cache.
- Both proceed in chunks that the L2 and L3 cache hold between one pass and the next.
- A layer never holds Ŵ: it dequantizes a tile into memory that the L3 cache holds, multiplies, and goes on to the
  next. Each number of the product is still one sum over all features, and rounded once.
- The kernel clears fresh memory page by page as it is first touched. For 64 MiB in pages of 4 KiB that takes about
  three times as long as all the arithmetic of `dequantize`, in pages of 2 MiB half as long as the arithmetic.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from peft_lessons.exact import exact
from peft_lessons.quantization.codebooks import Codebook
from peft_lessons.quantization.packing import unpack

if TYPE_CHECKING:
    from peft_lessons.quantization.tensor import QuantizedTensor

CHUNK = 2**19  # values: 2 MiB of float32
LARGE = 2**23  # bytes, from which memory is asked for in pages of 2 MiB


def chunks_of_blocks(weight: Tensor, block_size: int) -> Iterator[Tensor]:
    """Yield the weight as (blocks, block_size), a chunk at a time, at last (1, rest) if the last block is cut short."""
    flat = weight.reshape(-1)
    whole = flat.numel() - flat.numel() % block_size
    length = min(block_size, max(1, flat.numel()))  # torch takes no sizes beyond 64 bits
    yield from flat[:whole].view(-1, length).split(max(1, CHUNK // length))
    if whole < flat.numel():
        yield flat[whole:].view(1, -1)


def nearest_codes(scaled: Tensor, codebook: Codebook) -> Tensor:
    """Return the code of the level nearest to each value, uint8, same shape. Halfway between two the lower one wins."""
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
    codebook, block_size, numel = quantized.codebook, quantized.reach, prod(quantized.shape)
    step = 8 * max(1, CHUNK // block_size // 8)  # eight blocks end at a whole byte, whatever the width of a code
    chunks = values.split(step * block_size)
    codes = quantized.codes.split(step * block_size * codebook.bits // 8)
    scratch = torch.empty_like(chunks[0], dtype=torch.float32) if values.dtype != torch.float32 else None
    for chunk, packed, absmax in zip(chunks, codes, quantized.scales.split(step), strict=True):
        levels = chunk if scratch is None else scratch[: len(chunk)]
        look_up(levels, packed, codebook)
        levels[: len(absmax) * block_size].view(-1, block_size).mul_(absmax[:, None])
        if scratch is not None:
            chunk.copy_(levels)
    values[numel:] = 0
    return values[:numel].view(quantized.shape)


def look_up(levels: Tensor, packed: Tensor, codebook: Codebook) -> None:
    """Write the level of each packed code: uint8 (n,) → the first ⌊8n / bits⌋ of `levels`, or all; float32."""
    table = _table(codebook, packed)
    if codebook.bits == 4:
        torch.index_select(table, 0, packed.int(), out=levels.view(torch.int64)[: len(packed)])
    else:
        codes = unpack(packed, codebook.bits, min(len(levels), 8 * len(packed) // codebook.bits))
        torch.index_select(table, 0, codes.int(), out=levels[: len(codes)])


def _table(codebook: Codebook, packed: Tensor) -> Tensor:
    """`_new_table` on the device of `packed`, made once. Under a tracer it holds no numbers, and none is kept."""
    key = codebook, packed.device
    if torch.compiler.is_compiling() or type(packed) is not Tensor:
        return _new_table(*key)
    if key not in _TABLES:
        _TABLES[key] = _new_table(*key)
    return _TABLES[key]


_TABLES: dict[tuple[Codebook, torch.device], Tensor] = {}


@exact()
def _new_table(codebook: Codebook, device: torch.device) -> Tensor:
    """values[code], float32; for 4 bits the two values of each byte, as one int64 of 8 bytes that is copied whole."""
    values = torch.zeros(2**codebook.bits, dtype=torch.float32, device=device)
    values[: len(codebook.values)] = torch.tensor(codebook.values, dtype=torch.float32, device=device)
    if codebook.bits != 4:
        return values
    byte = torch.arange(256, device=device)
    return torch.stack((values[byte >> 4], values[byte & 15]), dim=1).view(torch.int64).view(-1)
