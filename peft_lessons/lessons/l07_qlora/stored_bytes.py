"""How many bytes does QLoRA store for a matrix?

Write `stored_bytes(n)`: the bytes of `n` weights in NF4 with double quantization. Each weight is a code of 4 bits. Each
block of 64 weights has a scale of 8 bits. Each 256 scales share one number in fp32, and the whole matrix has one more
fp32 number, the mean of its scales. The last block, and the last 256 scales, may be cut short; a byte may be half full.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises import require_number
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
WRONG = {
    "counts the codes alone": (_WRONG.format("-(-n // 2)"), "codes alone"),
    "keeps the scales in fp32": (_WRONG.format("-(-n // 2) + 4 * blocks"), "without double quantization"),
    "forgets the scales of the scales": (_WRONG.format("-(-n // 2) + blocks + 4"), "256 scales"),
    "forgets the mean": (_WRONG.format("-(-n // 2) + blocks + 4 * -(-blocks // 256)"), "mean"),
    "rounds down": (_WRONG.format("n // 2 + n // 64 + 4 * (n // 64 // 256) + 4"), "cut short"),
    "counts in bits": (_WRONG.format("4 * n + 8 * blocks + 32 * -(-blocks // 256) + 32"), "bits"),
    "a scale for each 256 weights": (_WRONG.format("-(-n // 2) + blocks + 4 * -(-n // 256) + 4"), "256 scales, not"),
}


def check(student: Callable[..., Any]) -> None:
    codes, blocks = 32 * 512, 512
    _compare(
        student,
        64 * blocks,
        {
            codes: "those are the codes alone",
            codes + 4 * blocks: "that is without double quantization: each scale takes one byte here",
            codes + blocks + 4: "each 256 scales share one more number of 4 bytes",
            codes + blocks + 8: "the mean of the scales, 4 bytes, is missing",
            codes + blocks + 2 + 1: "the numbers that 256 scales share, and the mean, are fp32: 4 bytes each",
            codes + blocks + 2 + 4: "the numbers that 256 scales share are fp32: 4 bytes each",
            codes + blocks + 4 * 128 + 4: "one number for each 256 scales, not for each 256 weights",
            8 * (codes + blocks + 12): "a byte has eight bits: these are bits",
        },
    )
    cut_short = "65 weights are two blocks, the last one cut short, and the last byte is half full"
    _compare(student, 65, dict.fromkeys(range(32, 43), cut_short))
    _compare(student, 576 * 1536, {})


def _compare(student: Callable[..., Any], n: int, mistakes: dict[int, str]) -> None:
    """Against the bytes that the package itself stores."""
    expected = quantize(torch.zeros(n), NF4, 64, double=True).nbytes
    require_number(student(n), expected, f"n = {n:,}", mistakes)
