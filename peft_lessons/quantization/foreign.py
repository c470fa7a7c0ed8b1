"""bitsandbytes' 4-bit weights, read without bitsandbytes: the format is that of `quantize`."""

from typing import Any

import torch
from torch import Tensor

from peft_lessons.quantization.codebooks import FP4, NF4
from peft_lessons.quantization.tensor import QuantizedTensor, dequantize

CODEBOOKS = {"nf4": NF4, "fp4": FP4}


def from_bitsandbytes(data: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """Return the weight that `data`, a Linear4bit's, and its QuantState stand for, in `dtype`, of the state's shape."""
    codes, absmax = data.view(torch.uint8), state.absmax  # FSDP has them stored under other dtypes
    if getattr(state, "packing_format_for_cpu", False):
        codes, absmax = _in_order(codes), absmax.T.float()
    second = state.state2 if state.nested else None
    quantized = QuantizedTensor(
        codes.flatten(),
        absmax.flatten(),
        None if second is None else second.absmax,
        None if second is None else state.offset,
        torch.Size(state.shape),
        dtype,
        CODEBOOKS[state.quant_type],
        state.blocksize,
    )
    return dequantize(quantized)


def _in_order(codes: Tensor) -> Tensor:
    """Codes in the order of the weights, uint8 (rows, columns / 2), after a forward pass on a CPU with AVX512-BF16.

    In eval mode bitsandbytes then interleaves 32 rows, in place: every 32 bytes hold 64 codes, the first 32 of them in
    the low bits, a pair of columns from each row.
    """
    rows, half = codes.shape
    groups = codes.view(-1, 32)
    pairs = torch.cat((groups & 15, groups >> 4), dim=1).view(rows // 32, half, 32, 2).transpose(1, 2)
    return pairs[..., 0] << 4 | pairs[..., 1]
