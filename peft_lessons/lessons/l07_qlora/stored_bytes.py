"""How many bytes does QLoRA store for a matrix?

Write `stored_bytes(n)`: the bytes of `n` weights in NF4 with double quantization. Each weight is a code of 4 bits. Each
block of 64 weights has a scale of 8 bits. Each 256 scales share one number in fp32, and the whole matrix has one more
fp32 number, the mean of its scales. The last block, and the last 256 scales, may be cut short; a byte may be half full.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises.cases import Case, compare
from peft_lessons.quantization import NF4, quantize

TITLE = "The bytes of 4 bits"
MINUTES = 5

STARTER = '''\
def stored_bytes(n):
    """Bytes of n weights in NF4 with double quantization"""
    return ...
'''

HINTS = [
    "There are four parts: codes, scales, scales of the scales, and one mean. Count each on its own.",
    "How many blocks do 65 weights need? Two. Rounding up is `-(-n // 64)`, or `math.ceil(n / 64)`.",
    "The codes are `-(-n // 2)` bytes, and the scales `blocks = -(-n // 64)`. The last two parts are yours: 4 bytes "
    "for each 256 scales begun, and one mean.",
]

SOLUTION = '''\
def stored_bytes(n):
    """Bytes of n weights in NF4 with double quantization"""
    codes = -(-n // 2)  # two codes to a byte, rounded up
    blocks = -(-n // 64)  # and as many scales, of one byte each
    second_scales = -(-blocks // 256)
    return codes + blocks + 4 * second_scales + 4
'''

_WRONG = """\
def stored_bytes(n):
    blocks = -(-n // 64)
    return {}
"""
RIGHT = {
    "math.ceil": """\
def stored_bytes(n):
    import math

    blocks = math.ceil(n / 64)
    return math.ceil(n / 2) + blocks + math.ceil(blocks / 256) * 4 + 4
""",
    "NumPy": """\
def stored_bytes(n):
    import numpy as np

    blocks = np.ceil(n / 64)
    return np.ceil(n * 4 / 8) + blocks * 8 / 8 + np.ceil(blocks / 256) * 32 / 8 + 32 / 8
""",
    "a tensor": """\
def stored_bytes(n):
    blocks = len(torch.zeros(n).split(64))
    return torch.tensor((n + 1) // 2 + blocks + 4 * len(torch.zeros(blocks).split(256)) + 4)
""",
    "weights for each second scale": _WRONG.format("(n + 1) // 2 + blocks + 4 * (-(-n // (64 * 256)) + 1)"),
}
WRONG = {
    "counts the codes alone": (_WRONG.format("-(-n // 2)"), "those are the codes alone"),
    "takes a byte for each code": (
        _WRONG.format("n + blocks + 4 * -(-blocks // 256) + 4"),
        "a code has 4 bits: two of them share a byte",
    ),
    "takes four bytes for each code": (
        _WRONG.format("4 * n + blocks + 4 * -(-blocks // 256) + 4"),
        "a code has 4 bits, not 4 bytes",
    ),
    "stores fp32": (_WRONG.format("4 * n"), "that is what fp32 takes, 4 bytes a weight"),
    "keeps the scales in fp32": (
        _WRONG.format("-(-n // 2) + 4 * blocks"),
        "that is without double quantization: each scale takes one byte here",
    ),
    "keeps the scales in fp32, too": (
        _WRONG.format("-(-n // 2) + 4 * blocks + 4 * -(-blocks // 256) + 4"),
        "each scale takes one byte, since it is quantized itself",
    ),
    "stores scales of 8 bytes": (
        _WRONG.format("-(-n // 2) + 8 * blocks + 4 * -(-blocks // 256) + 4"),
        "a scale has 8 bits, not 8 bytes",
    ),
    "forgets the scales": (
        _WRONG.format("-(-n // 2) + 4 * -(-blocks // 256) + 4"),
        "each block's own scale, one byte, is missing",
    ),
    "forgets the scales of the scales": (
        _WRONG.format("-(-n // 2) + blocks + 4"),
        "each 256 scales share one more number of 4 bytes",
    ),
    "forgets the scales of the scales and the mean": (
        _WRONG.format("-(-n // 2) + blocks"),
        "the numbers that 256 scales share, and the mean, are missing",
    ),
    "forgets the mean": (
        _WRONG.format("-(-n // 2) + blocks + 4 * -(-blocks // 256)"),
        "the mean of the scales, 4 bytes, is missing",
    ),
    "a mean for each 256 scales": (
        _WRONG.format("-(-n // 2) + blocks + 8 * -(-blocks // 256)"),
        "the whole matrix has one mean, not each 256 scales",
    ),
    "stores both in a byte": (
        _WRONG.format("-(-n // 2) + blocks + -(-blocks // 256) + 1"),
        "the numbers that 256 scales share, and the mean, are fp32: 4 bytes each",
    ),
    "stores the scales of the scales in a byte": (
        _WRONG.format("-(-n // 2) + blocks + -(-blocks // 256) + 4"),
        "the numbers that 256 scales share are fp32: 4 bytes each",
    ),
    "rounds down": (
        _WRONG.format("n // 2 + n // 64 + 4 * (n // 64 // 256) + 4"),
        "a last block that is cut short counts whole, and so do a half-full byte and a last few scales",
    ),
    "rounds the codes down": (
        _WRONG.format("n // 2 + blocks + 4 * -(-blocks // 256) + 4"),
        "the last byte is half full, and counts",
    ),
    "rounds the blocks down": (
        "def stored_bytes(n):\n    return -(-n // 2) + n // 64 + 4 * -(-n // 64 // 256) + 4\n",
        "the last block is cut short, and has a scale all the same",
    ),
    "rounds nothing": (
        "def stored_bytes(n):\n    return n / 2 + n / 64 + 4 * n / 64 / 256 + 4\n",
        "nothing is stored in parts: round up each of the three counts",
    ),
    "takes the average of a large matrix": (
        _WRONG.format("n * 4.127 / 8"),
        "bits a weight are an average of large matrices, without the mean and what is cut short: count the parts",
    ),
    "counts in bits": (
        _WRONG.format("4 * n + 8 * blocks + 32 * -(-blocks // 256) + 32"),
        "a byte has eight bits: these are bits",
    ),
    "a scale for each 256 weights": (
        _WRONG.format("-(-n // 2) + blocks + 4 * -(-n // 256) + 4"),
        "one number for each 256 scales, not for each 256 weights",
    ),
}


def check(student: Callable[..., Any]) -> None:
    """Against the bytes that the package itself stores."""
    compare(
        student, [Case((n,), _bytes(n), f"n = {n:,}") for n in (64 * 512, 65, 66, 1, 64, 64 * 257, 576 * 1536)], WRONG
    )


@functools.cache
def _bytes(n: int) -> int:
    return quantize(torch.zeros(n), NF4, 64, double=True).nbytes
