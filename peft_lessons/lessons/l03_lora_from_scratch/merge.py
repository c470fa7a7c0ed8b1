"""Fold a LoRA adapter into the weight that it sits on.

Write `merge(weight, A, B, alpha, rank)`. It returns a new tensor, the merged weight

W' = W + (alpha / rank) · B A,

where `weight` is (out, in), `A` is (rank, in) and `B` is (out, rank). The result has the dtype of `weight`; compute in
float32 and round once, at the end. `weight`, `A` and `B` stay as they are.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises import Incorrect, describe, require_tensor

TITLE = "Merge an adapter into its weight"
MINUTES = 5

STARTER = '''\
def merge(weight, A, B, alpha, rank):
    """The merged weight, (out, in), in the dtype of `weight`."""
    return ...
'''

HINTS = [
    "Look at the shapes: which of the two products, `A @ B` or `B @ A`, is (out, in)?",
    "The adapter's part is multiplied by `alpha / rank`. When the two are equal you cannot see it; try other values.",
    "Bring `weight`, `A` and `B` to float32 with `.float()`, add there, and end with `.to(weight.dtype)`.",
]

SOLUTION = '''\
def merge(weight, A, B, alpha, rank):
    """The merged weight, (out, in), in the dtype of `weight`."""
    delta = alpha / rank * (B.float() @ A.float())
    return (weight.float() + delta).to(weight.dtype)
'''

WRONG = {
    "forgets the scaling": (
        """\
def merge(weight, A, B, alpha, rank):
    return (weight.float() + B.float() @ A.float()).to(weight.dtype)
""",
        "scaling",
    ),
    "multiplies in the wrong order": (
        """\
def merge(weight, A, B, alpha, rank):
    return (weight.float() + alpha / rank * (A.float() @ B.float())).to(weight.dtype)
""",
        "A @ B",
    ),
    "adds in bfloat16": (
        """\
def merge(weight, A, B, alpha, rank):
    return weight + (alpha / rank * (B @ A)).to(weight.dtype)
""",
        "rounded before the sum",
    ),
    "returns float32": (
        """\
def merge(weight, A, B, alpha, rank):
    return weight.float() + alpha / rank * (B.float() @ A.float())
""",
        "it should be bfloat16",
    ),
    "changes the weight in place": (
        """\
def merge(weight, A, B, alpha, rank):
    merged = weight.float() + alpha / rank * (B.float() @ A.float())
    return weight.copy_(merged.to(weight.dtype))
""",
        "changed in place",
    ),
}


def check(student: Callable[..., Any]) -> None:
    # Square, so that both orders of the product have the right shape and only the values differ.
    weight = torch.zeros(2, 2)
    A = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    B = torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    case = f"with weight = 0, A = {describe(A)} and B = {describe(B)}"
    merged = require_tensor(student(weight.clone(), A.clone(), B.clone(), 2, 2), (2, 2), torch.float32)
    if not torch.equal(merged, B @ A):
        why = "that is `A @ B`; the weight is (out, in), so it must be `B @ A`" if torch.equal(merged, A @ B) else ""
        raise Incorrect(f"{case}, alpha = 2 and rank = 2: {_difference(merged, B @ A, why)}")

    merged = require_tensor(student(weight.clone(), A.clone(), B.clone(), 8, 2), (2, 2), torch.float32)
    if not torch.equal(merged, 4 * B @ A):
        why = "the scaling, alpha / rank = 4, is missing" if torch.equal(merged, B @ A) else ""
        raise Incorrect(f"{case}, alpha = 8 and rank = 2: {_difference(merged, 4 * B @ A, why)}")

    weight = torch.ones(1, 1)
    before = weight.clone()
    merged = require_tensor(student(weight, torch.ones(1, 1), torch.ones(1, 1), 1, 1), (1, 1), torch.float32)
    if not torch.equal(weight, before):
        raise Incorrect("`weight` was [[1.0]] before the call and is [[2.0]] after it: it was changed in place")
    if not torch.equal(merged, 2 * before):
        raise Incorrect(f"with weight, A, B, alpha and rank all 1: {_difference(merged, 2 * before)}")

    # Just over half a bfloat16 step above 1: rounding the sum goes up, rounding the delta first loses the excess and
    # then ties to even, back to 1.
    weight = torch.ones(1, 1, dtype=torch.bfloat16)
    A, B = torch.tensor([[1 + 2**-10]]), torch.tensor([[2**-8]])
    merged = require_tensor(student(weight.clone(), A, B, 1, 1), (1, 1), torch.bfloat16)
    expected = (weight.float() + B @ A).bfloat16()
    if not torch.equal(merged, expected):
        why = "something was rounded before the sum; add in float32 and round once"
        raise Incorrect(
            f"with a bfloat16 weight of 1 and B A = {(B @ A).item():.6f}: {_difference(merged, expected, why)}"
        )

    generator = torch.Generator().manual_seed(0)
    weight, A, B = (torch.randn(shape, generator=generator) for shape in ((5, 7), (3, 7), (5, 3)))
    merged = require_tensor(student(weight.clone(), A.clone(), B.clone(), 4, 3), (5, 7), torch.float32)
    exact = weight.double() + 4 / 3 * (B.double() @ A.double())
    error = (merged.double() - exact).abs().max().item()
    if error > 1e-5:
        raise Incorrect(f"with a random (5, 7) weight, rank 3 and alpha 4, an element is off by {error:.2g}")


def _difference(got: torch.Tensor, expected: torch.Tensor, why: str = "") -> str:
    return f"you return {describe(got)}, it should be {describe(expected)}" + (f": {why}" if why else "")
