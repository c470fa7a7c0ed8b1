"""How many operations does a step cost?

Write `step_flops(n, rank)`: floating-point operations for one token, forward and backward, of an n × n linear layer
with LoRA. The layer is frozen, and its input needs a gradient, since other layers stand before it. A product of an
(a, b) and a (b, c) matrix costs 2·a·b·c operations; count nothing else.
"""

from collections.abc import Callable
from typing import Any

from peft_lessons.classroom.exercises.cases import Case, compare

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
RIGHT = {
    "one product": _LINE.format("4 * n * (n + 3 * rank)"),
    "a float": _LINE.format("4.0 * n**2 + 12.0 * n * rank"),
    "a tensor": _LINE.format("torch.tensor([2 * n * n, 2 * n * rank, 2 * n * rank]) @ torch.tensor([2, 3, 3])"),
    "a loop over products": """\
def step_flops(n, rank):
    def product(a, b, c):
        return 2 * a * b * c

    total = 0
    for inputs, outputs, trains in ((n, n, False), (n, rank, True), (rank, n, True)):
        total += product(outputs, inputs, 1) + product(inputs, outputs, 1)
        if trains:
            total += product(outputs, 1, inputs)
    return total
""",
}
WRONG = {
    "counts the forward pass alone": (_LINE.format("2 * n * n + 4 * n * rank"), "that is the forward pass alone"),
    "counts the backward pass alone": (_LINE.format("2 * n * n + 8 * n * rank"), "that is the backward pass alone"),
    "counts the gradient of W": (
        _LINE.format("6 * n * n + 12 * n * rank"),
        "W is frozen, so its gradient is not computed",
    ),
    "forgets the gradients of A and B": (
        _LINE.format("4 * n * n + 8 * n * rank"),
        "the gradients of A and B are products, too",
    ),
    "counts multiplications only": (
        _LINE.format("2 * n * n + 6 * n * rank"),
        "each multiplication comes with one addition: count both",
    ),
    "stops at the input of A": (_LINE.format("4 * n * n + 10 * n * rank"), "the input of A needs a gradient, too"),
    "counts one of the two thin matrices": (
        _LINE.format("4 * n * n + 6 * n * rank"),
        "LoRA has two thin matrices, A and B",
    ),
    "stops at the adapter": (_LINE.format("2 * n * n + 12 * n * rank"), "the gradient of x also goes through W"),
    "leaves out the frozen layer": (
        _LINE.format("12 * n * rank"),
        "the frozen layer computes, too: W x, and its input's gradient",
    ),
    "leaves out the adapter": (_LINE.format("4 * n * n"), "LoRA's two thin matrices are missing"),
    "builds B A": (
        _LINE.format("4 * n * n + 6 * n * n * rank"),
        "B A is never built: x goes through A first, then through B",
    ),
    "squares the rank": (_LINE.format("4 * n * n + 12 * rank * rank"), "A is (rank, n) and B is (n, rank)"),
    "swaps n and the rank": (_LINE.format("4 * rank * rank + 12 * n * rank"), "W is n × n, not rank × rank"),
}


def check(student: Callable[..., Any]) -> None:
    sizes = ((10, 1), (30, 4), (8, 8), (4096, 8))
    compare(
        student,
        [Case((n, rank), 4 * n * n + 12 * n * rank, f"n = {n:,} and rank {rank}") for n, rank in sizes],
        WRONG,
    )
