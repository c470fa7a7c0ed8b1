"""The smallest rank that is enough.

Write `smallest_rank(delta, share)`. The energy of a matrix is the sum of its squared entries. Return the smallest rank
r, an int, for which the best approximation of `delta` of rank r misses at most `share` of its energy. Rank 0, which
misses all of it, counts too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises import require_number

TITLE = "Which rank is enough?"
MINUTES = 7

STARTER = '''\
def smallest_rank(delta, share):
    """The smallest rank whose best approximation misses at most `share` of delta's energy"""
    return ...
'''

HINTS = [
    "`torch.linalg.svdvals(delta)` gives the singular values, largest first. The energy is the sum of their squares.",
    "The best approximation of rank r keeps the r largest singular values. It misses the squares of the others.",
    "Go through r = 0, 1, 2, …: `missed = (S[r:] ** 2).sum()`, and return the first r with `missed <= share * total`.",
]

SOLUTION = '''\
def smallest_rank(delta, share):
    """The smallest rank whose best approximation misses at most `share` of delta's energy"""
    energy = torch.linalg.svdvals(delta) ** 2
    for r in range(len(energy) + 1):
        if energy[r:].sum() <= share * energy.sum():
            return r
'''

_WRONG = """\
def smallest_rank(delta, share):
    S = torch.linalg.svdvals(delta)
    energy = {energy}
    for r in range({start}, len(energy) + 1):
        if {enough}:
            return r
    return len(energy)
"""
_RIGHT = {"energy": "S ** 2", "start": "0", "enough": "energy[r:].sum() <= share * energy.sum()"}
WRONG = {
    "sums singular values, not their squares": (_WRONG.format(**_RIGHT | {"energy": "S"}), "squares"),
    "keeps that share instead of missing it": (
        _WRONG.format(**_RIGHT | {"enough": "energy[:r].sum() >= share * energy.sum()"}),
        "misses",
    ),
    "is one too large": (
        _WRONG.format(**_RIGHT | {"start": "1", "enough": "energy[r - 1 :].sum() <= share * energy.sum()"}),
        "one less",
    ),
    "compares with the share itself": (
        _WRONG.format(**_RIGHT | {"enough": "energy[r:].sum() <= share"}),
        "share of its energy",
    ),
    "never answers 0": (_WRONG.format(**_RIGHT | {"start": "1"}), "rank 0"),
}


def check(student: Callable[..., Any]) -> None:
    spike = torch.diag(torch.tensor([10.0, 1.0, 1.0, 1.0, 1.0]))  # energies 100 and four times 1
    _compare(
        student,
        spike,
        0.1,
        1,
        {
            2: "one less is enough, it misses 4 of 104",
            4: "use the squares of the singular values",
            5: "compare with that share of its energy, which is 104 here",
        },
        "singular values 10, 1, 1, 1, 1",
    )
    slope = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))  # energies 16, 9, 4, 1
    _compare(
        student,
        slope,
        0.2,
        2,
        {1: "rank 1 misses 14 of 30. Do you ask how much it keeps?"},
        "singular values 4, 3, 2, 1",
    )
    zero = {1: "rank 0 misses everything, and a share of 1 allows that"}
    _compare(student, slope, 1.0, 0, zero, "singular values 4, 3, 2, 1")
    generator = torch.Generator().manual_seed(0)
    thin = torch.randn(20, 3, generator=generator) @ torch.randn(3, 30, generator=generator)
    _compare(student, thin, 1e-6, 3, {}, "a 20 × 30 matrix of rank 3")


def _compare(
    student: Callable[..., Any], delta: Tensor, share: float, expected: int, mistakes: dict[int, str], what: str
) -> None:
    require_number(student(delta.clone(), share), expected, f"{what} and a share of {share:g}", mistakes)
