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

from peft_lessons.classroom.exercises.cases import Case, compare

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

RIGHT = {
    "one vector at a time": """\
def intruders(before, after, k, threshold):
    old = torch.linalg.svd(before)[0].T
    new = torch.linalg.svd(after)[0].T
    count = 0
    for i in range(k):
        if max(abs(torch.dot(u, new[i])) for u in old) < threshold:
            count += 1
    return count
""",
    "NumPy": """\
def intruders(before, after, k, threshold):
    import numpy as np

    old, new = np.linalg.svd(before.numpy())[0], np.linalg.svd(after.numpy())[0]
    return np.sum(np.max(np.abs(new[:, :k].T @ old), axis=1) < threshold)
""",
    "reduced matrices in float64, einsum": """\
def intruders(before, after, k, threshold):
    old, _, _ = torch.linalg.svd(before.double(), full_matrices=False)
    new, _, _ = torch.linalg.svd(after.double(), full_matrices=False)
    likeness = torch.einsum("ij,ik->jk", old, new).abs()
    return k - (likeness >= threshold).any(dim=0)[:k].sum()
""",
    "squares of both": """\
def intruders(before, after, k, threshold):
    products = torch.linalg.svd(before).U.T.mm(torch.linalg.svd(after).U.narrow(1, 0, k))
    return (products.square().max(dim=0).values < threshold**2).float().sum()
""",
}

_WRONG = """\
def intruders(before, after, k, threshold):
    old, new = torch.linalg.svd(before).U, torch.linalg.svd(after).U[:, :k]
    {}
"""
WRONG = {
    "forgets the sign": (
        _WRONG.format("return int(((old.T @ new).amax(dim=0) < threshold).sum())"),
        "a vector and its negative are the same direction: mind the sign",
    ),
    "compares first with first, second with second": (
        _WRONG.format("return int(((old[:, :k] * new).sum(0).abs() < threshold).sum())"),
        "the same direction may stand at another place: compare each with all old ones",
    ),
    "looks at the k leading old vectors alone": (
        _WRONG.format("return int(((old[:, :k].T @ new).abs().amax(dim=0) < threshold).sum())"),
        "compare with all singular vectors of `before`, not with the first k",
    ),
    "ignores k": (
        _WRONG.format("new = torch.linalg.svd(after).U")[:-1]
        + "; return int(((old.T @ new).abs().amax(dim=0) < threshold).sum())\n",
        "only the k leading vectors of `after` are asked for",
    ),
    "takes the first vector only": (
        _WRONG.format("return int(((old.T @ new[:, :1]).abs().amax(dim=0) < threshold).sum())"),
        "that looks at the first vector of `after` alone, not at k of them",
    ),
    "takes the k-th vector only": (
        _WRONG.format("return int(((old.T @ new[:, k - 1]).abs().amax() < threshold).sum())"),
        "that looks at the k-th vector of `after` alone",
    ),
    "takes the last ones": (
        "def intruders(before, after, k, threshold):\n"
        "    old, new = torch.linalg.svd(before).U, torch.linalg.svd(after).U[:, -k:]\n"
        "    return int(((old.T @ new).abs().amax(dim=0) < threshold).sum())\n",
        "those are the last k vectors; the leading ones stand first",
    ),
    "counts those that are not new": (
        _WRONG.format("return int(((old.T @ new).abs().amax(dim=0) >= threshold).sum())"),
        "those are the vectors that are not new",
    ),
    "counts old vectors": (
        _WRONG.format("return int(((old.T @ new).abs().amax(dim=1) < threshold).sum())"),
        "that is the largest over the wrong dim: it counts old vectors that are unlike the new ones",
    ),
    "counts pairs": (
        _WRONG.format("return int(((old.T @ new).abs() < threshold).sum())"),
        "that counts pairs; of each new vector only the product with the old one most like it matters",
    ),
    "takes the least likeness": (
        _WRONG.format("return int(((old.T @ new).abs().amin(dim=0) < threshold).sum())"),
        "the largest inner product decides, not the smallest",
    ),
    "takes the mean likeness": (
        _WRONG.format("return int(((old.T @ new).abs().mean(dim=0) < threshold).sum())"),
        "the largest inner product decides, not the mean",
    ),
    "squares the products": (
        _WRONG.format("return int(((old.T @ new).square().amax(dim=0) < threshold).sum())"),
        "the threshold is for the inner products themselves, not for their squares",
    ),
    "takes the difference of the matrices": (
        "def intruders(before, after, k, threshold):\n"
        "    old, new = torch.linalg.svd(before).U, torch.linalg.svd(after - before).U[:, :k]\n"
        "    return int(((old.T @ new).abs().amax(dim=0) < threshold).sum())\n",
        "take the singular vectors of `after` itself, not of `after - before`",
    ),
    "takes right singular vectors": (
        "def intruders(before, after, k, threshold):\n"
        "    old, new = torch.linalg.svd(before).Vh, torch.linalg.svd(after).Vh[:k]\n"
        "    return int(((old @ new.T).abs().amax(dim=0) < threshold).sum())\n",
        "those are the right ones, rows of Vh; the left ones are columns of U",
    ),
    "takes rows of U": (
        "def intruders(before, after, k, threshold):\n"
        "    old, new = torch.linalg.svd(before).U, torch.linalg.svd(after).U[:k]\n"
        "    return int(((old @ new.T).abs().amax(dim=0) < threshold).sum())\n",
        "the left singular vectors are the columns of U, not its rows",
    ),
    "swaps before and after": (
        "def intruders(before, after, k, threshold):\n"
        "    old, new = torch.linalg.svd(after).U, torch.linalg.svd(before).U[:, :k]\n"
        "    return int(((old.T @ new).abs().amax(dim=0) < threshold).sum())\n",
        "`before` and `after` have changed places",
    ),
    "gives a share": (
        _WRONG.format("return ((old.T @ new).abs().amax(dim=0) < threshold).float().mean()"),
        "that is the share of the k; return how many",
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
    u1, u2, u3, u4, u5, u6 = U.T
    swapped = U @ torch.diag(sizes[[1, 0, 2, 3, 4, 5]]) @ V.T
    raised = U @ torch.diag(sizes[[5, 1, 2, 3, 4, 0]]) @ V.T  # the smallest direction has become the largest
    new = (u1 + u2 + u3 + u4) / 2  # half way between four old directions
    # Directions whose likeness to the most similar old one is 0.5, 0.8, 0.7071, 0.7071, 0.5, 0.8
    mixed = torch.stack(
        [
            new,
            0.8 * u5 + 0.6 * u6,
            (u1 - u2) / 2**0.5,
            (u3 - u4) / 2**0.5,
            (u1 + u2 - u3 - u4) / 2,
            0.6 * u5 - 0.8 * u6,
        ],
        dim=1,
    )
    turned = mixed @ torch.diag(sizes) @ _rotation(6, 2).T
    # The same vectors, exactly: none lies below a threshold of 1.
    falling, rising = torch.diag(torch.tensor([3.0, 2.0, 1.0])), torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    wide = [torch.cat([matrix, torch.zeros(6, 2)], dim=1) @ _rotation(8, 5) for matrix in (before, turned)]
    likeness = "whose left vectors are 0.5, 0.8, 0.71, 0.71, 0.5 and 0.8 like an old one"

    def case(after: Tensor, k: int, threshold: float, expected: int, words: str, first: Tensor = before) -> Case:
        words = f"an `after` {words}, k = {k} and a threshold of {threshold:g}"
        return Case((first, after, k, threshold), expected, words)

    cases = [
        case(_same_directions(U, sizes), 3, 0.6, 0, "with the same left directions"),
        case(swapped, 2, 0.6, 0, "whose two largest singular values have changed places"),
        case(raised, 1, 0.6, 0, "in which the last direction of `before` has become the first"),
        case(before + 40 * torch.outer(new, V[:, 4]), 1, 0.6, 1, "with a large new direction"),
        *(
            case(turned, k, threshold, expected, likeness)
            for k, threshold, expected in (
                (1, 0.3, 0),
                (2, 0.6, 1),
                (3, 0.6, 1),
                (3, 0.75, 2),
                (3, 0.9, 3),
                (6, 0.6, 2),
                (4, 0.80003, 4),
            )
        ),
        case(rising, 3, 1.0, 0, "of diag(1, 2, 3), a `before` of diag(3, 2, 1)", falling),
        case(wide[1], 3, 0.75, 2, f"of 6 × 8 {likeness}", wide[0]),
    ]
    compare(student, cases, WRONG)
