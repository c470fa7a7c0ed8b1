"""Weights in a few bits. Read `tensor.py` first: how a weight is quantized and comes back.

codebooks.py   the levels that a code stands for: NF4, FP4, and how to make others
tensor.py      `quantize`, `dequantize`, and what lies in memory between them
packing.py     codes of a few bits in bytes
cpu.py         where the speed comes from
linear.py      a frozen layer whose weight is quantized, and `quantize_model`
foreign.py     bitsandbytes' weights
simulated.py   `fake_quantize`: rounding alone, to look at
"""

from peft_lessons.quantization.codebooks import (
    DYNAMIC8,
    FP4,
    NF4,
    Codebook,
    float_codebook,
    integer_codebook,
    normal_codebook,
)
from peft_lessons.quantization.linear import QuantizedLinear, quantize_model
from peft_lessons.quantization.tensor import QuantizedTensor, dequantize, quantize

__all__ = [
    "DYNAMIC8",
    "FP4",
    "NF4",
    "Codebook",
    "QuantizedLinear",
    "QuantizedTensor",
    "dequantize",
    "float_codebook",
    "integer_codebook",
    "normal_codebook",
    "quantize",
    "quantize_model",
]
