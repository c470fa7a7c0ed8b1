"""Round to a grid that fits.

Write `absmax_quantize(x, bits)`: find the largest magnitude in `x`, divide by it, multiply by n = 2^(bits−1) − 1 and
round to integers. Return `(codes, scale)`: integer codes between −n and n (dtype int8), and scale = absmax / n, so that
codes · scale is close to x. When all of `x` is zero, codes and scale are zero.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises import Incorrect, NotAttempted, describe, require_tensor

TITLE = "Absmax quantization"
MINUTES = 6

STARTER = '''\
def absmax_quantize(x, bits):
    """(codes, scale): int8 codes in −n … n with n = 2^(bits−1) − 1, and one scale for all of x"""
    return ..., ...
'''

HINTS = [
    "`x.abs().max()` is the largest magnitude. Which number should it become?",
    "scale = absmax / n, and a code is x / scale, rounded: `torch.round(x / scale).to(torch.int8)`.",
    "0 / 0 is NaN. Divide by 1 where the scale is 0: `x / (scale if scale > 0 else 1)`.",
]

SOLUTION = '''\
def absmax_quantize(x, bits):
    """(codes, scale): int8 codes in −n … n with n = 2^(bits−1) − 1, and one scale for all of x"""
    n = 2 ** (bits - 1) - 1
    scale = x.abs().max() / n
    codes = torch.round(x / (scale if scale > 0 else 1)).to(torch.int8)
    return codes, scale
'''

WRONG = {
    "truncates": (
        """\
def absmax_quantize(x, bits):
    n = 2 ** (bits - 1) - 1
    scale = x.abs().max() / n
    return (x / (scale if scale > 0 else 1)).to(torch.int8), scale
""",
        "cuts off the fraction",
    ),
    "uses one level too many": (
        """\
def absmax_quantize(x, bits):
    n = 2 ** (bits - 1)
    scale = x.abs().max() / n
    return torch.round(x / (scale if scale > 0 else 1)).clamp(-128, 127).to(torch.int8), scale
""",
        "n = 2^(bits−1) − 1",
    ),
    "looks only at positive values": (
        """\
def absmax_quantize(x, bits):
    n = 2 ** (bits - 1) - 1
    scale = x.max().clamp(min=1e-9) / n
    return torch.round(x / scale).clamp(-128, 127).to(torch.int8), scale
""",
        "negative",
    ),
    "turns the scale upside down": (
        """\
def absmax_quantize(x, bits):
    n = 2 ** (bits - 1) - 1
    scale = n / x.abs().max()
    return torch.round(x * scale).to(torch.int8), scale
""",
        "upside down",
    ),
    "divides by zero": (
        """\
def absmax_quantize(x, bits):
    n = 2 ** (bits - 1) - 1
    scale = x.abs().max() / n
    return torch.round(x / scale).nan_to_num(nan=99).to(torch.int8), scale
""",
        "0 / 0",
    ),
}


def check(student: Callable[..., Any]) -> None:
    # absmax 7 at 4 bits: the scale is 1 and each code is the value, rounded
    _compare(student, [7.0, 1.0, 0.0], 4, [7, 1, 0], 1.0)
    _compare(student, [7.0, 2.75, -2.75], 4, [7, 3, -3], 1.0, "a cast to int8 cuts off the fraction; round first")
    _compare(student, [-7.0, 3.0, 1.0], 4, [-7, 3, 1], 1.0, "the largest magnitude is that of a negative value")
    _compare(student, [14.0, 2.0, 0.0], 4, [7, 1, 0], 2.0)
    _compare(student, [0.0, 0.0], 4, [0, 0], 0.0, "0 / 0 is NaN; nothing must divide by a scale of zero")
    _compare(student, [1.0, -0.5, 0.2], 2, [1, 0, 0], 1.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 50, generator=generator)
    for bits in (8, 5, 3):
        n = 2 ** (bits - 1) - 1
        codes, scale = _parts(student(x, bits), x, f"for 150 random values in {bits} bits")
        if codes.abs().max() > n or (codes * scale - x).abs().max() > scale / 2 * 1.0001:
            raise Incorrect(f"for 150 random values in {bits} bits, some value is off by more than half a step")


def _compare(
    student: Callable[..., Any], values: list[float], bits: int, codes: list[int], scale: float, why: str = ""
) -> None:
    x = torch.tensor(values)
    case = f"for x = {describe(x)} in {bits} bits"
    got_codes, got_scale = _parts(student(x.clone(), bits), x, case)
    if got_codes.tolist() == codes and abs(got_scale - scale) < 1e-6:
        return
    n = 2 ** (bits - 1) - 1
    if scale and abs(got_scale * (n + 1) - scale * n) < 1e-6:
        why = "the largest code must be n = 2^(bits−1) − 1"
    if scale and scale != 1 and abs(got_scale - 1 / scale) < 1e-6:
        why = "the scale is upside down; it is absmax / n, so that codes · scale is close to x"
    said = f"{case} you return codes {got_codes.tolist()} and scale {got_scale:g}; they should be {codes} and {scale:g}"
    raise Incorrect(said + (f": {why}" if why else ""))


def _parts(returned: Any, x: torch.Tensor, case: str) -> tuple[torch.Tensor, float]:
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise Incorrect(f"{case}: return two things, the codes and the scale")
    codes, scale = returned
    if codes is ... or scale is ...:
        raise NotAttempted
    codes = require_tensor(codes, tuple(x.shape), torch.int8, f"{case}, the codes", plural=True)
    if not isinstance(scale, int | float | torch.Tensor):
        raise Incorrect(f"{case}, the scale is {describe(scale)}, not a number")
    if isinstance(scale, torch.Tensor) and scale.numel() != 1:
        raise Incorrect(f"{case}, the scale has {scale.numel()} elements: return one scale for all of x")
    return codes, float(scale)
