"""How many bytes does training hold?

Write `train_bytes(frozen, trained)`. A frozen base of `frozen` numbers is stored in bf16. Beside it `trained` numbers
of an adapter are stored and trained in fp32 with AdamW. Return the bytes of all weights, gradients and optimizer state;
leave out activations.
"""

from collections.abc import Callable
from typing import Any

from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "The bytes of a training run"
MINUTES = 4

STARTER = '''\
def train_bytes(frozen, trained):
    """Bytes of weights, gradients and AdamW's state: a bf16 base, an fp32 adapter"""
    return ...
'''

HINTS = [
    "A bf16 number takes 2 bytes, an fp32 number 4. What does a frozen number need besides its own bytes?",
    "Nothing: no gradient, no optimizer state. A trained number has its weight, its gradient, and AdamW's two means.",
    "2 bytes for each frozen number, 4 + 4 + 4 + 4 for each trained one.",
]

SOLUTION = '''\
def train_bytes(frozen, trained):
    """Bytes of weights, gradients and AdamW's state: a bf16 base, an fp32 adapter"""
    weight, gradient, first_mean, second_mean = 4, 4, 4, 4
    return 2 * frozen + (weight + gradient + first_mean + second_mean) * trained
'''

_LINE = "def train_bytes(frozen, trained):\n    return {}\n"
RIGHT = {
    "one line": _LINE.format("2 * (frozen + 8 * trained)"),
    "a float": _LINE.format("frozen * 16 / 8 + 4 * trained * 32 / 8"),
    "a tensor": _LINE.format("torch.tensor([2, 16]) @ torch.tensor([frozen, trained])"),
    "NumPy": "def train_bytes(frozen, trained):\n"
    "    import numpy as np\n\n"
    "    return np.dot(np.array([frozen, trained, trained, trained], dtype=np.int64), np.array([2, 4, 4, 8]))\n",
    "sizes from torch": _LINE.format(
        "torch.bfloat16.itemsize * frozen + sum(torch.float32.itemsize * trained for _ in range(4))"
    ),
}
WRONG = {
    "forgets the optimizer": (
        _LINE.format("2 * frozen + 8 * trained"),
        "that has no room for AdamW's two means of each trained number",
    ),
    "gives AdamW one mean": (
        _LINE.format("2 * frozen + 12 * trained"),
        "a trained number has its weight, its gradient and two means: one more than you counted",
    ),
    "stores the adapter's weight alone": (
        _LINE.format("2 * frozen + 4 * trained"),
        "besides its weight a trained number has a gradient and AdamW's means",
    ),
    "stores a bf16 weight beside": (
        _LINE.format("2 * frozen + 18 * trained"),
        "the adapter is in fp32 alone; nothing of it is stored in bf16 as well",
    ),
    "trains the adapter's weight in bf16": (
        _LINE.format("2 * frozen + 14 * trained"),
        "all four numbers of a trained one are in fp32, 4 bytes each",
    ),
    "stores the base in fp32": (_LINE.format("4 * frozen + 16 * trained"), "the base is in bf16, 2 bytes a number"),
    "gives the base AdamW's means": (
        _LINE.format("10 * frozen + 16 * trained"),
        "AdamW keeps no means of a frozen number",
    ),
    "trains the base as well": (
        _LINE.format("16 * (frozen + trained)"),
        "a frozen number has neither a gradient nor optimizer state",
    ),
    "leaves out the base": (_LINE.format("16 * trained"), "the frozen numbers are stored, too"),
    "counts in bits": (_LINE.format("16 * frozen + 128 * trained"), "those are bits; a byte has eight of them"),
    "swaps the two": (_LINE.format("16 * frozen + 2 * trained"), "frozen and trained have changed places"),
}


def check(student: Callable[..., Any]) -> None:
    real = 3_212_749_824, 9_175_040
    cases = [
        Case((0, 10), 160, "0 frozen and 10 trained numbers"),
        Case((100, 0), 200, "100 frozen and 0 trained numbers"),
        Case((100, 10), 360, "100 frozen and 10 trained numbers"),
        Case(real, 6_572_300_288, "{:,} frozen and {:,} trained numbers".format(*real)),
    ]
    compare(student, cases, WRONG)
