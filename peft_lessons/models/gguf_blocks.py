"""How llama.cpp's files keep numbers: alone, or in blocks of 32 that share a scale d. All formats, both ways.

    F32, F16    4 and 2 bytes a weight
    Q8_0        34 bytes a block: d, 32 int8 codes q            w = d q           d = max |w| / 127
    Q4_0        18 bytes a block: d, 16 bytes of codes q        w = d (q − 8)     d = w of the largest |w| / −8
    Q4_1        20 bytes a block: d, m, 16 bytes of codes q     w = d q + m       d = (max w − min w) / 15, m = min w

d and m are fp16; codes are chosen with d before it is rounded. A byte of 4-bit codes has weight i in its low four bits
and weight i + 16 in its high four. Bit for bit ggml's `quantize_row_q8_0_ref`, `_q4_0_ref` and `_q4_1_ref`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Format:
    """One way to keep numbers: its number in files, and the weights and bytes of a block."""

    name: str
    number: int
    weights: int
    bytes: int
    decode: Callable[[Tensor], Tensor]  # uint8 (blocks, bytes) → fp32 (blocks, weights)
    encode: Callable[[Tensor], Tensor]  # and back


def _from_f32(blocks: Tensor) -> Tensor:
    return blocks.clone().view(torch.float32)


def _from_f16(blocks: Tensor) -> Tensor:
    return blocks.clone().view(torch.float16).float()


def _from_q8_0(blocks: Tensor) -> Tensor:
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    return blocks[:, 2:].contiguous().view(torch.int8).float().mul_(scale)


def _from_q4_0(blocks: Tensor) -> Tensor:
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    return _codes(blocks[:, 2:]).sub_(8).mul_(scale)


def from_q4_1(blocks: Tensor) -> Tensor:
    """Q4_1 blocks, uint8 (blocks, 20) → fp32 (blocks, 32)."""
    scale, minimum = blocks[:, :4].contiguous().view(torch.float16).float().chunk(2, dim=1)
    return _codes(blocks[:, 4:]).mul_(scale).add_(minimum)


def _codes(packed: Tensor) -> Tensor:
    """uint8 (blocks, 16) → fp32 (blocks, 32)"""
    weights = torch.empty(len(packed), 32, dtype=torch.float32, device=packed.device)
    weights[:, :16] = packed & 15
    weights[:, 16:] = packed >> 4
    return weights


def _to_f32(weights: Tensor) -> Tensor:
    return weights.contiguous().view(torch.uint8)


def _to_f16(weights: Tensor) -> Tensor:
    return _half(weights)


def _to_q8_0(weights: Tensor) -> Tensor:
    scale = weights.abs().amax(1, keepdim=True) / 127
    steps = weights * _inverse(scale)
    whole = steps.abs().floor()
    codes = (whole + (2 * (steps.abs() - whole)).floor()) * steps.sign()  # halves go away from zero
    return torch.cat((_half(scale), codes.to(torch.int8).view(torch.uint8)), dim=1)


def _to_q4_0(weights: Tensor) -> Tensor:
    scale = weights.gather(1, weights.abs().argmax(1, keepdim=True)) / -8
    codes = weights.double() * _inverse(scale).double() + 8.5  # ggml's fused multiply-add rounds once
    return torch.cat((_half(scale), _packed(codes)), dim=1)


def _to_q4_1(weights: Tensor) -> Tensor:
    lowest, highest = weights.aminmax(dim=1, keepdim=True)
    scale = (highest - lowest) / 15
    codes = (weights - lowest) * _inverse(scale) + 0.5
    return torch.cat((_half(scale), _half(lowest), _packed(codes)), dim=1)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0, 1 / scale)


def _half(numbers: Tensor) -> Tensor:
    """fp32 (blocks, n) → fp16, as bytes (blocks, 2 n)"""
    rounded = numbers.half()
    if not rounded.isfinite().all():
        raise ValueError(f"{float(numbers.abs().max()):.4g} is beyond the largest number of 16 bits, 65504")
    return rounded.view(torch.uint8)


def _packed(codes: Tensor) -> Tensor:
    """Numbers from 0 on (blocks, 32), cut off to whole ones below 16 → uint8 (blocks, 16)"""
    low, high = codes.clamp(max=15).to(torch.uint8).chunk(2, dim=1)
    return low | high << 4


F32, F16, Q4_0, Q4_1, Q8_0 = FORMATS = (
    Format("F32", 0, 1, 4, _from_f32, _to_f32),
    Format("F16", 1, 1, 2, _from_f16, _to_f16),
    Format("Q4_0", 2, 32, 18, _from_q4_0, _to_q4_0),
    Format("Q4_1", 3, 32, 20, from_q4_1, _to_q4_1),
    Format("Q8_0", 8, 32, 34, _from_q8_0, _to_q8_0),
)
BY_NUMBER = {one.number: one for one in FORMATS}
BY_NAME = {one.name: one for one in FORMATS}
