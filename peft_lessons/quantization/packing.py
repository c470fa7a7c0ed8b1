"""Codes of a few bits in bytes, without gaps."""

from collections.abc import Iterator
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Return the first `count` codes of what `pack` made: uint8 (count,)."""
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
