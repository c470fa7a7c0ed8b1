"""Quantize in blocks, with a codebook.

Write `quantize_in_blocks(x, levels, block_size)`. `x` has one dimension, and its length is a multiple of `block_size`;
`levels` are ascending numbers from −1 to 1. In each block, divide by the block's largest magnitude, take the nearest
level, and multiply back. Return the result, of the shape of `x`. A block of zeros stays zero.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises import Incorrect, describe
from peft_lessons.classroom.exercises.cases import Case, compare
from peft_lessons.classroom.exercises.operations import NaNShows
from peft_lessons.quantization import NF4

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

RIGHT = {
    "a loop over blocks": """\
def quantize_in_blocks(x, levels, block_size):
    parts = []
    for block in x.split(block_size):
        absmax = block.abs().max()
        if absmax == 0:
            parts.append(torch.zeros_like(block))
        else:
            places = torch.cdist(block[:, None] / absmax, levels[:, None]).argmin(1)
            parts.append(levels[places] * absmax)
    return torch.cat(parts)
""",
    "midpoints": """\
def quantize_in_blocks(x, levels, block_size):
    blocks = x.reshape(-1, block_size)
    absmax = blocks.abs().max(1, keepdim=True).values
    middles = (levels[1:] + levels[:-1]) / 2
    scaled = (blocks / absmax).nan_to_num(0.0)
    return (levels[torch.bucketize(scaled, middles)] * absmax).flatten()
""",
    "float64 inside": """\
def quantize_in_blocks(x, levels, block_size):
    blocks = x.double().unflatten(0, (-1, block_size))
    absmax = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    grid = levels.double()
    nearest = ((blocks / absmax).unsqueeze(-1) - grid).square().min(-1).indices
    return (grid[nearest] * absmax).view_as(x).float()
""",
    "levels times absmax": """\
def quantize_in_blocks(x, levels, block_size):
    result = x.clone().view(-1, block_size)
    for i, block in enumerate(result):
        grid = levels * block.abs().max()
        for j, value in enumerate(block):
            result[i, j] = min(grid, key=lambda level: abs(level - value))
    return result.view(-1)
""",
    "NumPy": """\
def quantize_in_blocks(x, levels, block_size):
    import numpy as np

    blocks, grid = x.numpy().reshape(-1, block_size), levels.numpy()
    absmax = np.abs(blocks).max(axis=1, keepdims=True)
    scaled = np.divide(blocks, absmax, out=np.zeros_like(blocks), where=absmax > 0)
    codes = np.abs(scaled[:, :, None] - grid).argmin(axis=2)
    return torch.from_numpy((grid[codes] * absmax).reshape(-1))
""",
    "zeros masked at the end": """\
def quantize_in_blocks(x, levels, block_size):
    blocks = x.view(-1, block_size)
    absmax = blocks.abs().amax(1, keepdim=True)
    codes = ((blocks / absmax)[..., None] - levels).abs().argmin(-1)
    return torch.where(absmax > 0, levels[codes] * absmax, 0.0).view(-1)
""",
}

_WRONG = """\
def quantize_in_blocks(x, levels, block_size):
    blocks = x.view({view})
    absmax = {absmax}
    scaled = blocks / {divisor}
    codes = {codes}
    return (levels[codes]{back}).{shape}
"""
_RIGHT = {
    "view": "-1, block_size",
    "absmax": "blocks.abs().amax(dim=1, keepdim=True)",
    "divisor": "torch.where(absmax > 0, absmax, 1)",
    "codes": "(scaled[..., None] - levels).abs().argmin(-1)",
    "back": " * absmax",
    "shape": "view(x.shape)",
}

WRONG = {
    "forgets to multiply back": (
        _WRONG.format(**_RIGHT | {"back": ""}),
        "multiply back by the absmax at the end",
    ),
    "divides again": (
        _WRONG.format(**_RIGHT | {"back": " / absmax"}),
        "multiply back by the absmax at the end, don't divide again",
    ),
    "takes the next lower level": (
        _WRONG.format(
            **_RIGHT | {"codes": "(torch.searchsorted(levels, scaled.contiguous(), right=True) - 1).clamp(min=0)"}
        ),
        "take the nearest level, not the one below",
    ),
    "takes the next higher level": (
        _WRONG.format(
            **_RIGHT | {"codes": "torch.searchsorted(levels, scaled.contiguous()).clamp(max=len(levels) - 1)"}
        ),
        "take the nearest level, not the one above",
    ),
    "takes the farthest level": (
        _WRONG.format(**_RIGHT | {"codes": "(scaled[..., None] - levels).abs().argmax(-1)"}),
        "that is the level farthest away",
    ),
    "forgets the distance's sign": (
        _WRONG.format(**_RIGHT | {"codes": "(scaled[..., None] - levels).argmin(-1)"}),
        "the nearest level has the least distance, without its sign",
    ),
    "does not scale": (
        _WRONG.format(**_RIGHT | {"divisor": "1"}),
        "divide by the block's absmax before you look for the level",
    ),
    "returns the codes": (
        "def quantize_in_blocks(x, levels, block_size):\n"
        "    blocks = x.view(-1, block_size)\n"
        "    absmax = blocks.abs().amax(dim=1, keepdim=True)\n"
        "    scaled = blocks / torch.where(absmax > 0, absmax, 1)\n"
        "    return (scaled[..., None] - levels).abs().argmin(-1).view(x.shape)\n",
        "those are the indices of the levels; return the levels, times absmax",
    ),
    "uses the signed maximum": (
        _WRONG.format(**_RIGHT | {"absmax": "blocks.amax(dim=1, keepdim=True)"}),
        "here the largest magnitude is negative",
    ),
    "uses one absmax for everything": (
        _WRONG.format(**_RIGHT | {"absmax": "x.abs().max()"}),
        "each block has its own absmax",
    ),
    "cuts blocks in columns": (
        _WRONG.format(**_RIGHT | {"view": "block_size, -1", "absmax": "blocks.abs().amax(dim=0, keepdim=True)"}),
        "a block is made of neighbours: `x.view(-1, block_size)`",
    ),
    "takes as many blocks as a block has values": (
        _WRONG.format(**_RIGHT | {"view": "block_size, -1"}),
        "`block_size` is how many values a block has, not how many blocks there are",
    ),
    "takes the largest of each column": (
        _WRONG.format(**_RIGHT | {"absmax": "blocks.abs().amax(dim=0, keepdim=True)"}),
        "that is the largest over the blocks, at each place; take the largest within each block",
    ),
    "takes the mean magnitude": (
        _WRONG.format(**_RIGHT | {"absmax": "blocks.abs().mean(dim=1, keepdim=True)"}),
        "the largest magnitude decides, not the mean",
    ),
    "keeps the blocks' shape": (
        _WRONG.format(**_RIGHT | {"shape": "view(-1, block_size)"}),
        "return the shape of x: one dimension, not one row for each block",
    ),
    "writes zero blocks as NaN": (
        """\
def quantize_in_blocks(x, levels, block_size):
    blocks = x.view(-1, block_size)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    codes = (blocks / absmax)[..., None].sub(levels).abs().argmin(-1)
    return torch.where(absmax > 0, levels[codes] * absmax, float("nan")).view(x.shape)
""",
        "a block of zeros comes out as NaN",
    ),
    "divides by zero": (
        _WRONG.format(**_RIGHT | {"divisor": "absmax"}),
        "0 / 0 is NaN, and which level is nearest to NaN is chance",
    ),
    "overwrites x": (
        """\
def quantize_in_blocks(x, levels, block_size):
    blocks = x.view(-1, block_size)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    blocks /= torch.where(absmax > 0, absmax, 1)
    codes = (blocks[..., None] - levels).abs().argmin(-1)
    return (levels[codes] * absmax).view(x.shape)
""",
        "`x` was [4.0, 2.2] before the call",
    ),
}


def check(student: Callable[..., Any]) -> None:
    levels = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    zeros = _case([0.0, 0.0, 1.0, 1.0], levels, 2, [0.0, 0.0, 1.0, 1.0])
    cases = [
        _case([4.0, 2.2], levels, 2, [4.0, 2.0]),
        _case([4.0, 1.8], levels, 2, [4.0, 2.0]),
        _case([-4.0, 1.0, 0.5], levels, 3, [-4.0, 0.0, 0.0]),
        _case([8.0, 4.4, 1.0, 0.6], levels, 2, [8.0, 4.0, 1.0, 0.5]),
        _case([1.0, 0.6, 8.0, 4.4, 3.0, 1.4], levels, 2, [1.0, 0.5, 8.0, 4.0, 3.0, 1.5]),
        _case([0.5, 0.2], levels, 2, [0.5, 0.25]),
        _case([1.0, 0.25003], levels, 2, [1.0, 0.5]),
        zeros,
        _case([3.0, -2.0, 0.0], levels, 1, [3.0, -2.0, 0.0]),
        _random(levels, 4, 64),
        _random(torch.tensor(NF4.levels), 64, 4096),
    ]
    with NaNShows(0) as nans:
        compare(student, cases, WRONG)
        # The level that a NaN gets is the first, −1, and −1 · 0 is a zero with a sign.
        nans.seen = False
        if student(*zeros.arguments)[:2].signbit().any() and nans.seen:
            raise Incorrect(
                f"for {zeros.words} the zeros come out by luck: 0 / 0 is NaN, and which level is nearest to NaN is "
                "chance. Let nothing be divided by an absmax of 0"
            )


def _case(values: list[float], levels: Tensor, block_size: int, expected: list[float]) -> Case:
    x = torch.tensor(values)
    words = f"x = {describe(x)}, levels {describe(levels)} and blocks of {block_size}"
    return Case((x, levels, block_size), torch.tensor(expected), words)


def _random(levels: Tensor, block_size: int, size: int) -> Case:
    """By another way than the reference: each value against all levels times the absmax of its block."""
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    blocks = x.reshape(-1, block_size)
    grid = blocks.abs().amax(1)[:, None, None] * levels
    nearest = (blocks[..., None] - grid).abs().argmin(-1, keepdim=True)
    expected = grid.expand(*blocks.shape, -1).gather(-1, nearest).flatten()
    return Case(
        (x, levels, block_size), expected, f"{size:,} random values, {len(levels)} levels and blocks of {block_size}"
    )
