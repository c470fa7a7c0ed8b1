"""How far two changes of weights agree in their strongest directions.

Write `overlap(one, other, i, j)`. Take the first i right singular vectors of `one`, the input directions to which it
responds most, and the first j of `other`. Return LoRA's measure (arXiv:2106.09685, Eq. 4)

phi = (sum of the squares of all i x j products between them) / min(i, j)

as a number between 0 and 1: 1 when one set of directions lies within the other, 0 when they are at right angles.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "The overlap of two changes"
MINUTES = 7

STARTER = '''\
def overlap(one, other, i, j):
    """The agreement of the first i input directions of `one` with the first j of `other`, from 0 to 1."""
    return ...
'''

HINTS = [
    "`U, S, Vh = torch.linalg.svd(one, full_matrices=False)`. The right singular vectors are the rows of `Vh`.",
    "All products of i directions with j others are one matrix product: (i, in) times (in, j).",
    "`products = Vh_one[:i] @ Vh_other[:j].T`, then the sum of `products ** 2`, divided by the smaller count.",
]

SOLUTION = '''\
def overlap(one, other, i, j):
    """The agreement of the first i input directions of `one` with the first j of `other`, from 0 to 1."""
    mine = torch.linalg.svd(one, full_matrices=False).Vh[:i]
    theirs = torch.linalg.svd(other, full_matrices=False).Vh[:j]
    return ((mine @ theirs.T) ** 2).sum().item() / min(i, j)
'''

RIGHT = {
    "norms": """\
def overlap(one, other, i, j):
    P, Q = (torch.linalg.svd(delta).Vh[:count].T for delta, count in ((one, i), (other, j)))
    return torch.linalg.norm(P.T @ Q) ** 2 / min(i, j)
""",
    "projections": """\
def overlap(one, other, i, j):
    def projection(delta, count):
        directions = torch.linalg.svd(delta, full_matrices=False).Vh[:count]
        return directions.T @ directions

    return torch.trace(projection(one, i) @ projection(other, j)) / min(i, j)
""",
    "NumPy": """\
def overlap(one, other, i, j):
    import numpy as np

    directions = [np.linalg.svd(delta.numpy())[2] for delta in (one, other)]
    return float(np.square(directions[0][:i] @ directions[1][:j].T).sum() / min(i, j))
""",
    "the eigenvectors of the Gram matrices": """\
def overlap(one, other, i, j):
    P = torch.linalg.eigh(one.double().T @ one.double()).eigenvectors.flip(1)[:, :i]
    Q = torch.linalg.eigh(other.double().T @ other.double()).eigenvectors.flip(1)[:, :j]
    return sum((p @ q) ** 2 for p in P.T for q in Q.T) / min(i, j)
""",
}

_WRONG = """\
def overlap(one, other, i, j):
    mine, theirs = {mine}, {theirs}
    return {result}
"""
_RIGHT = {
    "mine": "torch.linalg.svd(one, full_matrices=False).Vh[:i]",
    "theirs": "torch.linalg.svd(other, full_matrices=False).Vh[:j]",
    "result": "((mine @ theirs.T) ** 2).sum().item() / min(i, j)",
}


def _wrong(**changes: str) -> str:
    return _WRONG.format(**_RIGHT | changes)


WRONG = {
    "takes output directions": (
        _wrong(
            mine="torch.linalg.svd(one, full_matrices=False).U[:, :i].T",
            theirs="torch.linalg.svd(other, full_matrices=False).U[:, :j].T",
        ),
        "those are the left singular vectors, the directions of outputs",
    ),
    "takes columns of Vh": (
        _wrong(
            mine="torch.linalg.svd(one).Vh[:, :i].T",
            theirs="torch.linalg.svd(other).Vh[:, :j].T",
        ),
        "the singular vectors are the rows of `Vh`, not its columns",
    ),
    "takes the last directions": (
        _wrong(
            mine="torch.linalg.svd(one, full_matrices=False).Vh[-i:]",
            theirs="torch.linalg.svd(other, full_matrices=False).Vh[-j:]",
        ),
        "those are the weakest directions; singular values come largest first",
    ),
    "takes rows of the matrices": (
        _wrong(
            mine="one[:i] / one[:i].norm(dim=1, keepdim=True)", theirs="other[:j] / other[:j].norm(dim=1, keepdim=True)"
        ),
        "those are rows of the matrices themselves, not their singular vectors",
    ),
    "takes i of both": (
        _wrong(theirs="torch.linalg.svd(other, full_matrices=False).Vh[:i]"),
        "j is for the directions of `other`",
    ),
    "swaps i and j": (
        _wrong(
            mine="torch.linalg.svd(one, full_matrices=False).Vh[:j]",
            theirs="torch.linalg.svd(other, full_matrices=False).Vh[:i]",
        ),
        "i is for `one` and j for `other`",
    ),
    "compares direction by direction": (
        _wrong(result="sum(float(p @ q) ** 2 for p, q in zip(mine, theirs)) / min(i, j)"),
        "compare each direction of one with each of the other, not only those of the same number",
    ),
    "does not square": (
        _wrong(result="(mine @ theirs.T).sum().item() / min(i, j)"),
        "the products are squared before they are added: a direction and its opposite are the same",
    ),
    "takes absolute values": (
        _wrong(result="(mine @ theirs.T).abs().sum().item() / min(i, j)"),
        "add the squares of the products, not their absolute values",
    ),
    "takes the root": (
        _wrong(result="((mine @ theirs.T) ** 2).sum().sqrt().item() / min(i, j)"),
        "the sum of squares, without a root",
    ),
    "divides by the larger count": (
        _wrong(result="((mine @ theirs.T) ** 2).sum().item() / max(i, j)"),
        "divide by the smaller of i and j",
    ),
    "takes the mean of all products": (
        _wrong(result="((mine @ theirs.T) ** 2).mean().item()"),
        "divide by the smaller of i and j, not by i · j",
    ),
    "does not divide": (
        _wrong(result="((mine @ theirs.T) ** 2).sum().item()"),
        "divide by the smaller of i and j, so that 1 is the most",
    ),
}


def check(student: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)

    def change(outputs: int, inputs: int) -> Tensor:
        return torch.randn(outputs, inputs, generator=generator)

    wide, tall = (change(4, 9), change(6, 9)), (change(9, 5), change(7, 5))
    axes = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    cases = [
        Case((axes, axes.flip(1), 2, 2), 0.0, "two changes whose two strongest directions are at right angles"),
        Case((axes, axes, 1, 3), 1.0, "twice the same change, 1 direction and 3"),
        Case((axes, -axes, 2, 2), 1.0, "a change and its opposite"),
        *(
            Case(
                (*pair, i, j),
                _reference(*pair, i, j),
                f"two random changes with {pair[0].shape[1]} inputs, i = {i}, j = {j}",
            )
            for pair, i, j in ((wide, 2, 3), (wide, 4, 1), (tall, 3, 3), (tall, 1, 4))
        ),
    ]
    compare(student, cases, WRONG)


def _reference(one: Tensor, other: Tensor, i: int, j: int) -> float:
    P, Q = (torch.linalg.svd(delta.double()).Vh[:count] for delta, count in ((one, i), (other, j)))
    return float((P @ Q.T).square().sum() / min(i, j))
