"""Round to a grid that fits.

Write `absmax_quantize(x, bits)`: find the largest magnitude in `x`, divide by it, multiply by n = 2^(bits−1) − 1 and
round to integers. Return `(codes, scale)`: integer codes between −n and n (dtype int8), and scale = absmax / n, so that
codes · scale is close to x. When all of `x` is zero, codes and scale are zero.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises import describe
from peft_lessons.classroom.exercises.cases import Case, agree, compare
from peft_lessons.classroom.exercises.operations import NaNShows

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

RIGHT = {
    "a scale of 1 for zeros": """\
def absmax_quantize(x, bits):
    n = (1 << bits - 1) - 1
    absmax = torch.linalg.vector_norm(x, ord=float("inf")).item()
    if absmax == 0:
        return torch.zeros(x.shape, dtype=torch.int8), 0.0
    return x.mul(n / absmax).round().clamp(-n, n).char(), absmax / n
""",
    "where": """\
def absmax_quantize(x, bits):
    n = 2 ** (bits - 1) - 1
    scale = max(x.max(), -x.min()) / n
    codes = torch.where(scale > 0, torch.round(x / scale), torch.zeros_like(x))
    return codes.to(torch.int8), scale
""",
    "NaN made 0": """\
def absmax_quantize(x, bits):
    n = 2.0 ** (bits - 1) - 1
    scale = x.double().abs().amax() / n
    return [(x.double() / scale).nan_to_num(0.0).round().to(dtype=torch.int8), scale.reshape(1)]
""",
    "the cast masked": """\
def absmax_quantize(x, bits):
    n = 2 ** (bits - 1) - 1
    scale = x.abs().max() / n
    codes = (x / scale).round().to(torch.int8)
    return torch.where(scale == 0, torch.zeros_like(codes), codes), scale
""",
    "NumPy": """\
def absmax_quantize(x, bits):
    import numpy as np

    values = x.numpy()
    scale = np.abs(values).max() / (2 ** (bits - 1) - 1)
    codes = np.rint(values / (scale or 1))
    return torch.from_numpy(codes.astype(np.int8)), scale
""",
    "a half away from zero": """\
def absmax_quantize(x, bits):
    n = 2 ** (bits - 1) - 1
    scale = x.abs().max() / n
    steps = x.abs() / scale.clamp(min=1e-30)
    return (x.sign() * (steps + 0.5).floor()).to(torch.int8), scale
""",
}

_WRONG = """\
def absmax_quantize(x, bits):
    n = {n}
    scale = {scale}
    codes = {codes}
    return {result}
"""
_RIGHT = {
    "n": "2 ** (bits - 1) - 1",
    "scale": "x.abs().max() / n",
    "codes": "torch.round(x / (scale if scale > 0 else 1)).to(torch.int8)",
    "result": "codes, scale",
}
WRONG = {
    "truncates": (
        _WRONG.format(**_RIGHT | {"codes": "(x / (scale if scale > 0 else 1)).to(torch.int8)"}),
        "a cast to int8 cuts off the fraction; round first",
    ),
    "rounds down": (
        _WRONG.format(**_RIGHT | {"codes": "torch.floor(x / (scale if scale > 0 else 1)).to(torch.int8)"}),
        "`floor` rounds down; take the nearest integer",
    ),
    "rounds up": (
        _WRONG.format(**_RIGHT | {"codes": "torch.ceil(x / (scale if scale > 0 else 1)).to(torch.int8)"}),
        "`ceil` rounds up; take the nearest integer",
    ),
    "adds a half and truncates": (
        _WRONG.format(**_RIGHT | {"codes": "(x / (scale if scale > 0 else 1) + 0.5).to(torch.int8)"}),
        "adding a half and cutting off is right for positive values only",
    ),
    "uses one level too many": (
        _WRONG.format(
            **_RIGHT | {"n": "2 ** (bits - 1)", "codes": _RIGHT["codes"].replace(".to", ".clamp(-128, 127).to")}
        ),
        "the largest code must be n = 2^(bits−1) − 1",
    ),
    "counts all levels for one side": (
        _WRONG.format(
            **_RIGHT | {"n": "2 ** bits - 1", "codes": _RIGHT["codes"].replace(".to", ".clamp(-128, 127).to")}
        ),
        "one bit is for the sign: n = 2^(bits−1) − 1",
    ),
    "gives absmax as the scale": (
        _WRONG.format(**_RIGHT | {"result": "codes, scale * n"}),
        "that is absmax; the scale is absmax / n",
    ),
    "swaps the two": (
        _WRONG.format(**_RIGHT | {"result": "scale, codes"}),
        "the two have changed places: codes first, then the scale",
    ),
    "takes a scale for each column": (
        _WRONG.format(
            **_RIGHT
            | {"scale": "x.abs().amax(0) / n", "codes": _RIGHT["codes"].replace("scale > 0", "scale.max() > 0")}
        ),
        "one scale for all of x, not one for each column",
    ),
    "looks only at positive values": (
        _WRONG.format(
            **_RIGHT
            | {
                "scale": "x.max().clamp(min=1e-9) / n",
                "codes": "torch.round(x / scale).clamp(-128, 127).to(torch.int8)",
            }
        ),
        "the largest magnitude is that of a negative value",
    ),
    "takes the range": (
        _WRONG.format(**_RIGHT | {"scale": "(x.max() - x.min()) / n"}),
        "that is the range, from the least to the largest; take the largest magnitude",
    ),
    "takes the mean": (
        _WRONG.format(
            **_RIGHT | {"scale": "x.abs().mean() / n", "codes": _RIGHT["codes"].replace(".to", ".clamp(-128, 127).to")}
        ),
        "the largest magnitude decides, not the mean",
    ),
    "turns the scale upside down": (
        """\
def absmax_quantize(x, bits):
    n = 2 ** (bits - 1) - 1
    scale = n / x.abs().max()
    return torch.round(x * scale).to(torch.int8), scale
""",
        "the scale is upside down; it is absmax / n, so that codes · scale is close to x",
    ),
    "multiplies back": (
        _WRONG.format(**_RIGHT | {"result": "codes * scale, scale"}),
        "return the integer codes themselves; codes · scale comes later",
    ),
    "leaves the codes as floats": (
        _WRONG.format(**_RIGHT | {"codes": "torch.round(x / (scale if scale > 0 else 1))"}),
        "the codes are integers: end with `.to(torch.int8)`",
    ),
    "divides by zero": (
        """\
def absmax_quantize(x, bits):
    n = 2 ** (bits - 1) - 1
    scale = x.abs().max() / n
    return torch.round(x / scale).nan_to_num(nan=99).to(torch.int8), scale
""",
        "0 / 0 is NaN",
    ),
    "hopes that NaN becomes zero": (
        _WRONG.format(**_RIGHT | {"codes": "torch.round(x / scale).to(torch.int8)"}),
        "0 / 0 is NaN, and which int8 a NaN becomes depends on the machine; here it becomes 77",
    ),
    "gives a scale of 1 for zeros": (
        _WRONG.format(**_RIGHT | {"result": "codes, scale if scale > 0 else 1.0"}),
        "divide by 1 where all is zero, but return a scale of 0",
    ),
}


def check(student: Callable[..., Any]) -> None:
    # absmax 7 at 4 bits: the scale is 1 and each code is the value, rounded
    cases = [
        _case([7.0, 1.0, 0.0], 4, [7, 1, 0], 1.0),
        _case([7.0, 2.75, -2.75], 4, [7, 3, -3], 1.0),
        _case([-7.0, 3.0, 1.0], 4, [-7, 3, 1], 1.0),
        _case([14.0, 2.0, 0.0], 4, [7, 1, 0], 2.0),
        _case([0.35, 0.1, -0.05], 4, [7, 2, -1], 0.05),
        _case([0.0, 0.0], 4, [0, 0], 0.0),
        _case([1.0, -0.4, 0.2], 2, [1, 0, 0], 1.0),
        _case([[3.0, -1.0], [1.0, 7.0]], 4, [[3, -1], [1, 7]], 1.0),
    ]
    generator = torch.Generator().manual_seed(0)
    x = 1.003 * torch.randn(3, 10, 50, generator=generator)  # whose scale is far from one in bfloat16 or half
    for bits in (8, 5, 3):
        cases.append(_random(x, bits))
    with NaNShows(77), warnings.catch_warnings():  # as on one machine or another
        warnings.filterwarnings("error", "invalid value encountered in cast")  # NumPy sees it itself
        compare(student, cases, WRONG, parts=("the codes", "the scale"))


def _case(values: list[Any], bits: int, codes: list[Any], scale: float) -> Case:
    x = torch.tensor(values)
    expected = torch.tensor(codes, dtype=torch.int8), scale
    return Case((x, bits), expected, f"x = {describe(x)} in {bits} bits")


def _random(x: Tensor, bits: int) -> Case:
    n = 2 ** (bits - 1) - 1
    scale = x.abs().max().item() / n
    steps = x.double() / scale
    codes = steps.round()
    near = ((steps - steps.floor()) - 0.5).abs() < 1e-4  # two codes are almost equally near: either is right

    def right(returned: Any, expected: Any) -> bool:
        if not (isinstance(returned, tuple | list) and len(returned) == 2 and agree(returned[1], scale)):
            return False
        got = returned[0]
        same_kind = isinstance(got, Tensor) and got.shape == x.shape and got.dtype == torch.int8
        return same_kind and bool(((got == codes) | (near & ((got - steps).abs() < 0.51))).all())

    words = f"{x.numel():,} random values, of shape {tuple(x.shape)}, in {bits} bits"
    return Case((x, bits), (codes.to(torch.int8), scale), words, right)
