"""How many operations does a step cost?

Write `step_flops(n, rank)`: floating-point operations for one token, forward and backward, of an n × n linear layer
with LoRA. The layer is frozen, and its input needs a gradient, since other layers stand before it. A product of an
(a, b) and a (b, c) matrix costs 2·a·b·c operations; count nothing else.
"""

from collections.abc import Callable
from typing import Any

from peft_lessons.classroom.exercises import require_number

TITLE = "The operations of a step"
MINUTES = 8

STARTER = '''\
def step_flops(n, rank):
    """Operations for one token: forward and backward of a frozen n × n layer with LoRA"""
    return ...
'''

HINTS = [
    "Forward: $W x$ costs $2n^2$, $A x$ and then $B(Ax)$ cost $2nr$ each. Which products does backward need?",
    "Each product of forward brings up to two more: the gradients of its input and of its weight. Which are needed?",
    "$W$: forward and input, not weight. $A$ and $B$: all three. So $2 \\cdot 2n^2 + 2 \\cdot 3 \\cdot 2nr$.",
]

SOLUTION = '''\
def step_flops(n, rank):
    """Operations for one token: forward and backward of a frozen n × n layer with LoRA"""
    base = 2 * (2 * n * n)  # W x, and the gradient of x through W
    adapter = 3 * (2 * n * rank) * 2  # for A and for B: forward, gradient of the input, gradient of the weight
    return base + adapter
'''

_LINE = "def step_flops(n, rank):\n    return {}\n"
WRONG = {
    "counts the forward pass alone": (_LINE.format("2 * n * n + 4 * n * rank"), "forward pass alone"),
    "counts the gradient of W": (_LINE.format("6 * n * n + 12 * n * rank"), "W is frozen"),
    "forgets the gradients of A and B": (_LINE.format("4 * n * n + 8 * n * rank"), "gradients of A and B"),
    "counts multiplications only": (_LINE.format("2 * n * n + 6 * n * rank"), "one addition"),
    "counts one of the two thin matrices": (_LINE.format("4 * n * n + 6 * n * rank"), "two thin matrices"),
    "stops at the adapter": (_LINE.format("2 * n * n + 12 * n * rank"), "through W"),
}


def check(student: Callable[..., Any]) -> None:
    for n, rank in ((10, 1), (30, 4), (4096, 8)):
        mistakes = {
            2 * n * n + 4 * n * rank: "that is the forward pass alone",
            6 * n * n + 12 * n * rank: "W is frozen, so its gradient is not computed",
            4 * n * n + 8 * n * rank: "the gradients of A and B are products, too",
            2 * n * n + 6 * n * rank: "each multiplication comes with one addition: count both",
            4 * n * n + 10 * n * rank: "the input of A needs a gradient, too",
            4 * n * n + 6 * n * rank: "LoRA has two thin matrices, A and B",
            2 * n * n + 12 * n * rank: "the gradient of x also goes through W",
        }
        case = f"n = {n:,} and rank {rank}"
        require_number(student(n, rank), 4 * n * n + 12 * n * rank, case, mistakes)
