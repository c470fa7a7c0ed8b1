"""Quantize in blocks, with a codebook.

Write `quantize_in_blocks(x, levels, block_size)`. `x` has one dimension, and its length is a multiple of `block_size`;
`levels` are ascending numbers from −1 to 1. In each block, divide by the block's largest magnitude, take the nearest
level, and multiply back. Return the result, of the shape of `x`. A block of zeros stays zero.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises import Incorrect, describe, require_tensor

TITLE = "Block-wise quantization with a codebook"
MINUTES = 10

STARTER = '''\
def quantize_in_blocks(x, levels, block_size):
    """x rounded to levels · absmax of its block, same shape"""
    return ...
'''

HINTS = [
    "`blocks = x.view(-1, block_size)` has a block in each row; `blocks.abs().amax(1, keepdim=True)` are the absmaxes.",
    "`(scaled[..., None] - levels).abs().argmin(-1)` is the index of the nearest level for each element.",
    "A block of zeros has absmax 0. Divide by 1 there: `torch.where(absmax > 0, absmax, 1)`. Then `.view(x.shape)`.",
]

SOLUTION = '''\
def quantize_in_blocks(x, levels, block_size):
    """x rounded to levels · absmax of its block, same shape"""
    blocks = x.view(-1, block_size)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    scaled = blocks / torch.where(absmax > 0, absmax, 1)
    codes = (scaled[..., None] - levels).abs().argmin(-1)
    return (levels[codes] * absmax).view(x.shape)
'''

_WRONG = """\
def quantize_in_blocks(x, levels, block_size):
    blocks = x.view({view})
    absmax = {absmax}
    scaled = blocks / torch.where(absmax > 0, absmax, 1)
    codes = {codes}
    return (levels[codes]{back}).{shape}
"""
_RIGHT = {
    "view": "-1, block_size",
    "absmax": "blocks.abs().amax(dim=1, keepdim=True)",
    "codes": "(scaled[..., None] - levels).abs().argmin(-1)",
    "back": " * absmax",
    "shape": "view(x.shape)",
}

WRONG = {
    "uses one absmax for everything": (_WRONG.format(**_RIGHT | {"absmax": "x.abs().max()"}), "each block has its own"),
    "cuts blocks in columns": (
        _WRONG.format(
            **_RIGHT
            | {
                "view": "block_size, -1",
                "absmax": "blocks.abs().amax(dim=0, keepdim=True)",
            }
        ),
        "neighbours",
    ),
    "forgets to multiply back": (_WRONG.format(**_RIGHT | {"back": ""}), "multiply back"),
    "takes the next lower level": (
        _WRONG.format(**_RIGHT | {"codes": "(torch.searchsorted(levels, scaled, right=True) - 1).clamp(min=0)"}),
        "nearest",
    ),
    "uses the signed maximum": (
        _WRONG.format(**_RIGHT | {"absmax": "blocks.amax(dim=1, keepdim=True)"}),
        "largest magnitude is negative",
    ),
    "divides by zero": (
        """\
def quantize_in_blocks(x, levels, block_size):
    blocks = x.view(-1, block_size)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    codes = (blocks / absmax)[..., None].sub(levels).abs().argmin(-1)
    return torch.where(absmax > 0, levels[codes] * absmax, float("nan")).view(x.shape)
""",
        "NaN",
    ),
}


def check(student: Callable[..., Any]) -> None:
    levels = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    _compare(student, [4.0, 2.2], levels, 2, [4.0, 2.0], {(1.0, 0.5): "multiply back by the absmax at the end"})
    _compare(student, [4.0, 1.8], levels, 2, [4.0, 2.0], {(4.0, 0.0): "take the nearest level, not the one below"})
    _compare(student, [-4.0, 1.0], levels, 2, [-4.0, 0.0], {}, "here the largest magnitude is negative")
    columns: dict[tuple[float, ...], str] = {
        (8.0, 4.4, 0.0, 0.0): "a block is made of neighbours: `x.view(-1, block_size)`"
    }
    _compare(student, [8.0, 4.4, 1.0, 0.6], levels, 2, [8.0, 4.0, 1.0, 0.5], columns, "each block has its own absmax")
    _compare(student, [1.0, 0.6, 8.0, 4.4, 3.0, 1.4], levels, 2, [1.0, 0.5, 8.0, 4.0, 3.0, 1.5], {})
    _compare(student, [0.0, 0.0, 1.0, 1.0], levels, 2, [0.0, 0.0, 1.0, 1.0], {})


def _compare(
    student: Callable[..., Any],
    values: list[float],
    levels: torch.Tensor,
    block_size: int,
    expected: list[float],
    mistakes: dict[tuple[float, ...], str],
    why: str = "",
) -> None:
    x = torch.tensor(values)
    result = require_tensor(student(x.clone(), levels, block_size), tuple(x.shape), torch.float32)
    if torch.allclose(result, torch.tensor(expected), atol=1e-6):
        return
    why = mistakes.get(tuple(round(v, 4) for v in result.tolist()), why)
    said = f"for x = {describe(x)}, levels {describe(levels)} and blocks of {block_size} you return {describe(result)}"
    raise Incorrect(f"{said}, it should be {expected}" + (f": {why}" if why else ""))
