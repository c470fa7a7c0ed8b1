"""How many bytes does training hold?

Write `train_bytes(frozen, trained)`. A frozen base of `frozen` numbers is stored in bf16. Beside it `trained` numbers
of an adapter are stored and trained in fp32 with AdamW. Return the bytes of all weights, gradients and optimizer state;
leave out activations.
"""

from collections.abc import Callable
from typing import Any

from peft_lessons.classroom.exercises import require_number

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

WRONG = {
    "stores the base in fp32": ("def train_bytes(frozen, trained):\n    return 4 * frozen + 16 * trained\n", "bf16"),
    "forgets the optimizer": ("def train_bytes(frozen, trained):\n    return 2 * frozen + 8 * trained\n", "no room"),
    "gives AdamW one mean": ("def train_bytes(frozen, trained):\n    return 2 * frozen + 12 * trained\n", "one more"),
    "trains the base as well": ("def train_bytes(frozen, trained):\n    return 16 * (frozen + trained)\n", "neither"),
    "counts in bits": ("def train_bytes(frozen, trained):\n    return 16 * frozen + 128 * trained\n", "are bits"),
}


def check(student: Callable[..., Any]) -> None:
    require_number(
        student(0, 10),
        160,
        "0 frozen and 10 trained numbers",
        {
            80: "that has no room for AdamW's two means of each trained number",
            120: "a trained number has its weight, its gradient and two means: one more than you counted",
            1280: "those are bits; a byte has eight of them",
        },
    )
    require_number(
        student(100, 0),
        200,
        "100 frozen and 0 trained numbers",
        {
            400: "the base is in bf16, 2 bytes a number",
            1600: "a frozen number has neither a gradient nor optimizer state",
        },
    )
    require_number(
        student(3_212_749_824, 9_175_040), 6_572_300_288, "3,212,749,824 frozen and 9,175,040 trained numbers"
    )
