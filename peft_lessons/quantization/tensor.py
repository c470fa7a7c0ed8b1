"""Weights in a few bits: block-wise quantization with a codebook, as QLoRA stores its base (arXiv:2305.14314, §2–3).

A weight w in a block of 64 is stored as the number of a level q in a codebook, beside one scale for the block:

    absmax = max |w| over the block,    code = argmin_i |w / absmax − q_i|,    ŵ = q_code · absmax.

The codes, scales and values of `NF4` and `FP4` are those of bitsandbytes, bit for bit. With `double=True` the scales
are quantized in turn: their mean is subtracted and the rest is stored in 8 bits with one second scale for 256 of them.
That second level is bitsandbytes' 8-bit dynamic map; the paper names an 8-bit float.

Left out: activations are never quantized, and no product is ever computed in 4 bits. QLoRA, too, dequantizes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from peft_lessons.exact import exact
from peft_lessons.quantization.codebooks import DYNAMIC8, NF4, Codebook
from peft_lessons.quantization.cpu import chunks_of_blocks, fresh_memory, nearest_codes, write
from peft_lessons.quantization.packing import pack

SECOND_BLOCK_SIZE = 256


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """What `quantize` stores: four tensors, and the layout that `dequantize` needs to read them.

    Examples:
        >>> import torch
        >>> from peft_lessons import QuantizedTensor, quantize
        >>> quantized = quantize(torch.ones(64, 64))
        >>> isinstance(quantized, QuantizedTensor)
        True
        >>> quantized.codes.shape, quantized.absmax.shape
        (torch.Size([2048]), torch.Size([64]))
        >>> quantized.bits_per_weight
        4.5
    """

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
    def scales(self) -> Tensor:
        """The scales, float32 (blocks,): as stored, or dequantized by the same function one level up."""
        if self.offset is None:
            return self.absmax
        assert self.second_absmax is not None
        shape = self.absmax.shape
        second = QuantizedTensor(
            self.absmax, self.second_absmax, None, None, shape, torch.float32, DYNAMIC8, SECOND_BLOCK_SIZE
        )
        return dequantize(second) + self.offset

    @property
    def reach(self) -> int:
        """Values that share a scale: the block size, or all and as many as end a byte where a block is larger."""
        return min(self.block_size, -(-prod(self.shape) // 8) * 8 or 8)

    @property
    def nbytes(self) -> int:
        """Bytes held. The codebook is shared by all tensors that use it and counts for none."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor is not None)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / max(1, prod(self.shape))


@exact()
def quantize(weight: Tensor, codebook: Codebook = NF4, block_size: int = 64, double: bool = False) -> QuantizedTensor:
    """Replace each weight by the nearest level of its block (arXiv:2305.14314, Eq. 1 and §3).

    Blocks run over the flattened tensor, whatever its shape; the last may be shorter. The arithmetic is float32.
    A block of zeros comes back as zeros; halfway between two levels the lower one wins. `double` quantizes the scales.

    Raises:
        TypeError: if `weight` is not floating.
        ValueError: if it holds NaN or infinity, lies on the meta device, or `block_size` < 1.

    Examples:
        >>> import torch
        >>> from peft_lessons import NF4, dequantize, quantize
        >>> quantized = quantize(torch.tensor([-2.0, 0.1, 0.0, 2.0]), codebook=NF4, block_size=4)
        >>> quantized.absmax
        tensor([2.])
        >>> [round(value, 3) for value in dequantize(quantized).tolist()]
        [-2.0, 0.159, 0.0, 2.0]
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
    # in float64, since a float32 sum depends on how many threads share it
    offset = scales.double().mean().float() if len(scales) else scales.new_zeros(())
    second = quantize(scales - offset, DYNAMIC8, SECOND_BLOCK_SIZE)
    return QuantizedTensor(
        packed, second.codes, second.absmax, offset, weight.shape, weight.dtype, codebook, block_size
    )


def dequantize(quantized: QuantizedTensor, dtype: torch.dtype | None = None) -> Tensor:
    """level · absmax for each code: the shape that was quantized, in its dtype or in `dtype`, rounded from float32.

    Examples:
        >>> import torch
        >>> from peft_lessons import dequantize, quantize
        >>> dequantize(quantize(torch.tensor([-2.0, 0.0, 2.0])), torch.bfloat16)
        tensor([-2.,  0.,  2.], dtype=torch.bfloat16)
    """
    room = -(-len(quantized.absmax) * quantized.reach // 8) * 8  # whole blocks, and whole bytes of codes
    return write(quantized, fresh_memory(room, dtype or quantized.dtype, quantized.codes.device))


def check_floating(weight: Tensor) -> None:
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        given = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"only floating tensors can be quantized; given {given}")
    if weight.is_meta:
        raise ValueError("a tensor on the meta device holds no values to quantize: load the weights first")


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
    smallest = 1e-38 if largest.dtype == torch.float32 else torch.finfo(largest.dtype).tiny
    largest = largest.clamp(min=smallest)  # keeps the reciprocal finite; a block of zeros stays zero
    return blocks * largest.reciprocal() if blocks.shape[1] == block_size else blocks / largest
