"""The forward pass of LoRA.

Write `lora_forward(x, weight, bias, A, B, alpha)`. It returns x W₀ᵀ + b + (alpha / rank) · x Aᵀ Bᵀ, where `x` is
(…, in), `weight` (out, in), `bias` (out,) or None, `A` (rank, in) and `B` (out, rank). The rank is in the shapes.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises import Incorrect, describe, require_tensor

TITLE = "LoRA's forward pass"
MINUTES = 5

STARTER = '''\
def lora_forward(x, weight, bias, A, B, alpha):
    """(…, in) → (…, out)"""
    return ...
'''

HINTS = [
    "`torch.nn.functional.linear(x, weight, bias)` is the base layer's part. It takes None for the bias.",
    "A is (rank, in), so `A.shape[0]` is the rank. `x @ A.T` goes down to (…, rank).",
    "Down and up again, then the scaling: `alpha / A.shape[0] * (x @ A.T @ B.T)`.",
]

SOLUTION = '''\
def lora_forward(x, weight, bias, A, B, alpha):
    """(…, in) → (…, out)"""
    base = torch.nn.functional.linear(x, weight, bias)
    return base + alpha / A.shape[0] * (x @ A.T @ B.T)
'''

_WRONG = """\
def lora_forward(x, weight, bias, A, B, alpha):
    base = torch.nn.functional.linear(x, weight, bias)
    return {result}
"""

WRONG = {
    "forgets the scaling": (_WRONG.format(result="base + x @ A.T @ B.T"), "without alpha / rank"),
    "takes the rank from the wrong side": (
        _WRONG.format(result="base + alpha / A.shape[1] * (x @ A.T @ B.T)"),
        "`A.shape[1]` is the number of inputs",
    ),
    "leaves the base out": (_WRONG.format(result="alpha / A.shape[0] * (x @ A.T @ B.T)"), "W₀x is missing"),
    "scales the base too": (
        _WRONG.format(result="alpha / A.shape[0] * (base + x @ A.T @ B.T)"),
        "the base is scaled too",
    ),
    "loses the bias": (
        """\
def lora_forward(x, weight, bias, A, B, alpha):
    return x @ weight.T + alpha / A.shape[0] * (x @ A.T @ B.T)
""",
        "the bias is missing",
    ),
}


def check(student: Callable[..., Any]) -> None:
    x, weight = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, -1.0]])
    A, B = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    # W₀x = −2 and B A x = 3, so that each mistake gives another number
    y = require_tensor(student(x, weight, None, A, B, 8), (1, 1), torch.float32).item()
    if y != 10:
        case = f"with x = {describe(x[0])}, W₀x = −2, B A x = 3, rank 2 and alpha 8"
        why = {
            1.0: "that is without alpha / rank",
            6.0: "`A.shape[1]` is the number of inputs; the rank is `A.shape[0]`",
            12.0: "W₀x is missing",
            4.0: "the base is scaled too; only the update is",
        }.get(y, "it should be W₀x + (8 / 2) · B A x")
        raise Incorrect(f"{case} you return {y:g}, it should be −2 + 4 · 3 = 10: {why}")
    y = require_tensor(student(x, weight, torch.tensor([5.0]), A, B, 8), (1, 1), torch.float32).item()
    if y != 15:
        raise Incorrect(f"with a bias of 5 you return {y:g}, it should be 15: the bias is missing or counted twice")
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, A, B = (torch.randn(s, generator=generator) for s in [(2, 4, 6), (5, 6), (5,), (3, 6), (5, 3)])
    outputs = require_tensor(student(x, weight, bias, A, B, 7), (2, 4, 5), torch.float32)
    expected = x @ (weight + 7 / 3 * B @ A).T + bias
    if not torch.allclose(outputs, expected, atol=1e-4):
        raise Incorrect(
            f"on a batch of shape (2, 4, 6) the result is off by up to {(outputs - expected).abs().max():.3g}"
        )
