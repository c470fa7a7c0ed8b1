"""Count intruder dimensions.

Write `intruders(before, after, k, threshold)`. The arguments `before` and `after` are a weight matrix before and after
fine-tuning. Take the `k` leading left singular vectors of `after` (columns of U). One of them is an *intruder* when it
is not like any left singular vector of `before`: when the largest absolute value of its inner products with all of them
lies below `threshold`. Return how many of the `k` are intruders, an int.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises import require_number

TITLE = "Intruders among the singular vectors"
MINUTES = 7

STARTER = '''\
def intruders(before, after, k, threshold):
    """How many of the k leading left singular vectors of `after` are new"""
    return ...
'''

HINTS = [
    "`torch.linalg.svd(matrix)` gives U, S, Vh. The left singular vectors are the columns of U, largest S first.",
    "All inner products at once: `U_before.T @ U_after[:, :k]` has a column for each of the k vectors.",
    "A vector and its negative are the same direction: `.abs()`, then `.amax(dim=0) < threshold`, then count.",
]

SOLUTION = '''\
def intruders(before, after, k, threshold):
    """How many of the k leading left singular vectors of `after` are new"""
    old, new = torch.linalg.svd(before).U, torch.linalg.svd(after).U[:, :k]
    likeness = (old.T @ new).abs().amax(dim=0)  # of each new vector to the old one that it is most like
    return int((likeness < threshold).sum())
'''

_WRONG = """\
def intruders(before, after, k, threshold):
    old, new = torch.linalg.svd(before).U, torch.linalg.svd(after).U[:, :k]
    {}
"""
WRONG = {
    "forgets the sign": (
        _WRONG.format("return int(((old.T @ new).amax(dim=0) < threshold).sum())"),
        "sign",
    ),
    "compares first with first, second with second": (
        _WRONG.format("return int(((old[:, :k] * new).sum(0).abs() < threshold).sum())"),
        "another place",
    ),
    "looks at the k leading old vectors alone": (
        _WRONG.format("return int(((old[:, :k].T @ new).abs().amax(dim=0) < threshold).sum())"),
        "all singular vectors of `before`",
    ),
    "counts those that are not new": (
        _WRONG.format("return int(((old.T @ new).abs().amax(dim=0) >= threshold).sum())"),
        "not new",
    ),
    "takes right singular vectors": (
        "def intruders(before, after, k, threshold):\n"
        "    old, new = torch.linalg.svd(before).Vh, torch.linalg.svd(after).Vh[:k]\n"
        "    return int(((old @ new.T).abs().amax(dim=0) < threshold).sum())\n",
        "right ones",
    ),
}


def _rotation(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q


def _same_directions(U: Tensor, sizes: Tensor) -> Tensor:
    """A matrix with the left singular vectors U, of whose first three the library returns two as their negatives."""
    for seed in range(2, 100):
        matrix = U @ torch.diag(sizes) @ _rotation(6, seed).T
        if ((torch.linalg.svd(matrix).U * U).sum(0)[:3] < 0).sum() == 2:
            return matrix
    raise AssertionError("no matrix was found: the library always returns the same signs")


def check(student: Callable[..., Any]) -> None:
    U, V = _rotation(6, 0), _rotation(6, 1)
    sizes = torch.tensor([9.0, 7.0, 5.0, 3.0, 2.0, 1.0])
    before = U @ torch.diag(sizes) @ V.T
    U = torch.linalg.svd(before).U  # with the signs that the library gives

    def compare(after: Tensor, k: int, expected: int, case: str, mistakes: dict[int, str]) -> None:
        require_number(student(before.clone(), after, k, 0.6), expected, case, mistakes)

    compare(
        _same_directions(U, sizes),
        3,
        0,
        "an `after` with the same left directions",
        {
            3: "those are the vectors that are not new; or the largest over the wrong dim, of the old vectors",
            2: "a vector and its negative are the same direction: mind the sign",
            1: "the left ones are all old; did you take the right ones, rows of Vh?",
        },
    )
    swapped = U @ torch.diag(sizes[[1, 0, 2, 3, 4, 5]]) @ V.T
    compare(
        swapped,
        2,
        0,
        "an `after` whose two largest singular values have changed places",
        {2: "the same directions are there, each at another place"},
    )
    raised = U @ torch.diag(sizes[[5, 1, 2, 3, 4, 0]]) @ V.T  # the smallest direction has become the largest
    compare(
        raised,
        1,
        0,
        "an `after` in which the last direction of `before` has become the first",
        {1: "compare with all singular vectors of `before`, not with the first k"},
    )
    new = (U[:, 0] + U[:, 1] + U[:, 2] + U[:, 3]) / 2  # half way between four old directions
    compare(
        before + 40 * torch.outer(new, V[:, 4]),
        1,
        1,
        "an `after` with a large new direction",
        {0: "it is not like any old left vector; did you take rows in place of columns of U, or rows of Vh?"},
    )
