"""The smallest rank that is enough.

Write `smallest_rank(delta, share)`. The energy of a matrix is the sum of its squared entries. Return the smallest rank
r, an int, for which the best approximation of `delta` of rank r misses at most `share` of its energy. Rank 0, which
misses all of it, counts too.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises.cases import Case, compare

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

RIGHT = {
    "a running sum": """\
def smallest_rank(delta, share):
    energy = torch.linalg.svdvals(delta.double()).square()
    kept = torch.cat([torch.zeros(1), energy.cumsum(0)])
    return (energy.sum() - kept > share * energy.sum()).sum()
""",
    "NumPy": """\
def smallest_rank(delta, share):
    import numpy as np

    energy = np.linalg.svd(delta.numpy(), compute_uv=False) ** 2
    r = 0
    while energy[r:].sum() > share * energy.sum():
        r += 1
    return np.int64(r)
""",
    "the approximations themselves": """\
def smallest_rank(delta, share):
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    for r in range(len(S)):
        rest = delta - U[:, :r] @ torch.diag(S[:r]) @ Vh[:r]
        if rest.pow(2).sum() <= share * delta.pow(2).sum():
            return float(r)
    return float(len(S))
""",
    "from the last one back": """\
def smallest_rank(delta, share):
    energy = [s**2 for s in torch.linalg.svdvals(delta).tolist()]
    missed, r = 0.0, len(energy)
    while r > 0 and missed + energy[r - 1] <= share * sum(energy):
        r -= 1
        missed += energy[r]
    return r
""",
}

_WRONG = """\
def smallest_rank(delta, share):
    S = torch.linalg.svdvals(delta)
    energy = {energy}
    for r in range({range}):
        if {enough}:
            return {rank}
    return {end}
"""
_RIGHT = {
    "energy": "S ** 2",
    "range": "len(energy) + 1",
    "enough": "energy[r:].sum() <= share * energy.sum()",
    "rank": "r",
    "end": "len(energy)",
}
WRONG = {
    "sums singular values, not their squares": (
        _WRONG.format(**_RIGHT | {"energy": "S"}),
        "use the squares of the singular values",
    ),
    "takes roots of the energies": (
        _WRONG.format(**_RIGHT | {"enough": "energy[r:].sum() ** 0.5 <= share * energy.sum() ** 0.5"}),
        "that compares roots; the share is of the energy, the sum of squares",
    ),
    "keeps that share instead of missing it": (
        _WRONG.format(**_RIGHT | {"enough": "energy[:r].sum() >= share * energy.sum()"}),
        "do you ask how much it keeps? The share is what it misses",
    ),
    "is one too large": (_WRONG.format(**_RIGHT | {"rank": "r + 1"}), "one less is enough"),
    "is one too small": (_WRONG.format(**_RIGHT | {"rank": "r - 1"}), "one less is not enough, it misses more"),
    "leaves out the next value": (
        _WRONG.format(**_RIGHT | {"enough": "energy[r + 1 :].sum() <= share * energy.sum()"}),
        "rank r misses every energy from S[r] on; the first place is 0",
    ),
    "compares with the share itself": (
        _WRONG.format(**_RIGHT | {"enough": "energy[r:].sum() <= share"}),
        "compare with that share of its energy, the sum of all squares",
    ),
    "compares with what is kept": (
        _WRONG.format(**_RIGHT | {"enough": "energy[r:].sum() <= share * energy[:r].sum()"}),
        "the share is of all the energy, not of what is kept",
    ),
    "looks at the next value alone": (
        _WRONG.format(**_RIGHT | {"enough": "r == len(S) or energy[r] <= share * energy.sum()"}),
        "a rank misses all the values after it together, not the next one alone",
    ),
    "wants less than the share": (
        _WRONG.format(**_RIGHT | {"enough": "r == len(S) or energy[r:].sum() < share * energy.sum()"}),
        "at most: to miss exactly that share is allowed",
    ),
    "never answers 0": (
        _WRONG.format(**_RIGHT | {"range": "1, len(energy) + 1"}),
        "rank 0 counts, too: it misses everything, and here that is allowed",
    ),
    "never answers the full rank": (
        _WRONG.format(**_RIGHT | {"range": "len(energy)", "end": "None"}),
        "the loop ends before the full rank, which alone misses nothing",
    ),
    "stops one before the full rank": (
        _WRONG.format(**_RIGHT | {"range": "len(energy)", "end": "r"}),
        "only the full rank misses nothing",
    ),
    "gives the rank of the matrix": (
        "def smallest_rank(delta, share):\n    return torch.linalg.matrix_rank(delta)\n",
        "that is the rank of the matrix: a smaller one may miss no more than the share",
    ),
}


def check(student: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    thin = torch.randn(20, 3, generator=generator) @ torch.randn(3, 30, generator=generator)
    cases = [
        _diagonal([10, 1, 1, 1, 1], 0.1, 1),  # energies 100 and four times 1
        _diagonal([4, 3, 2, 1], 0.18, 2),  # energies 16, 9, 4, 1
        _diagonal([2, 2, 2, 2], 0.25, 3),  # each of them a quarter
        _diagonal([4, 3, 2, 1], 1.0, 0),
        _diagonal([2, 1], 0.0, 2),
        _diagonal([4, 3, 2, 1], 0.16663, 3),  # rank 2 misses 5 of 30, a little more
        _diagonal([32, 32, 32, 1], 0.6667, 2),  # rank 1 misses 2,049 of 3,073, a little more
        _diagonal([2, 1.5, 0.5], 0.36, 2),  # energies 4, 2.25, 0.25
        _diagonal([2, 1.5, 0.5], 0.39, 1),
        Case((thin, 1e-4), 3, "a 20 × 30 matrix of rank 3 and a share of 0.0001"),
        Case((thin.T, 1e-4), 3, "a 30 × 20 matrix of rank 3 and a share of 0.0001"),
    ]
    compare(student, cases, WRONG)


def _diagonal(values: list[float], share: float, expected: int) -> Case:
    words = f"singular values {', '.join(map(str, values))} and a share of {share:g}"
    return Case((torch.diag(torch.tensor(values, dtype=torch.float32)), share), expected, words)
