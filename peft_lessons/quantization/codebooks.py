"""Codebooks: the levels that a code of a few bits can stand for, and how they are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Codebook:
    """The levels that a code can stand for, as fractions of the block's absmax.

    `values[code]` is the level of `code`, rounded to float32; the order is the order of storage and need not ascend.

    Raises:
        ValueError: for fewer than 2 or more than 256 levels, and for one that is not finite.

    Examples:
        >>> from peft_lessons import Codebook
        >>> thirds = Codebook("thirds", (-1.0, 0.0, 1.0))
        >>> thirds.bits, thirds.levels
        (2, (-1.0, 0.0, 1.0))
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

    Examples:
        >>> from peft_lessons import integer_codebook
        >>> integer_codebook(2).levels, len(integer_codebook(4).levels)
        ((-1.0, 0.0, 1.0), 15)
    """
    check_bits(bits)
    largest = 2 ** (bits - 1) - 1
    return Codebook(f"INT{bits}", tuple(i / largest for i in range(-largest, largest + 1)) if bits > 1 else SIGN)


@cache
def normal_codebook(bits: int) -> Codebook:
    """NormalFloat of any width: 2^bits quantiles of the normal distribution (arXiv:2305.14314, §3), with an exact zero.

    Half the levels are positive, one is zero, the rest negative. The outermost probability leaves half a bin beyond the
    last level, averaged over the two halves. 4 bits are `NF4`. One bit gives ±½.

    Examples:
        >>> from peft_lessons import NF4, normal_codebook
        >>> [round(level, 2) for level in normal_codebook(2).levels]
        [-1.0, 0.0, 0.44, 1.0]
        >>> normal_codebook(4) is NF4
        True
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
    """Build a small float: sign, ⌊bits/2⌋ exponent bits, the rest mantissa; subnormals, but no infinity and no NaN.

    2 bits are E1M0, 3 E1M1, 4 E2M1, 5 E2M2, 6 E3M2, 7 E3M3, 8 E4M3. Zero counts once, so 2^bits − 1 levels. With one
    exponent bit they are evenly spaced, as `integer_codebook`. One bit in all gives ±½.

    Examples:
        >>> from peft_lessons import float_codebook
        >>> float_codebook(4).name, float_codebook(3).levels[3:]
        ('FP4 E2M1', (0.0, 0.3333333432674408, 0.6666666865348816, 1.0))
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
