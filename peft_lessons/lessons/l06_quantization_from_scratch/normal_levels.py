"""Build NF4's levels from the normal distribution.

Write `normal_levels()`, which returns the 16 levels of 4-bit NormalFloat, ascending, as a float64 tensor. Either side
has quantiles of the normal distribution at evenly spaced probabilities from o = 0.9677083 to 0.5, where the quantile is
0: 9 probabilities for the positive side, 8 for the negative one, whose quantiles are mirrored. The 0 counts once, so
there are 8 positive levels, 7 negative ones and 0. Then everything is divided by the largest. `torch.special.ndtri` is
the quantile function Φ⁻¹.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises.cases import Case, compare
from peft_lessons.quantization import NF4

TITLE = "NF4's levels"
MINUTES = 8

STARTER = '''\
def normal_levels():
    """The 16 levels of NF4, ascending, float64, from −1 to 1"""
    return ...
'''

HINTS = [
    "The 9 probabilities of the positive side: `torch.linspace(o, 0.5, 9, dtype=torch.float64)`. The last is 0.5, "
    "whose quantile is 0.",
    "Drop that last one on either side, and add 0 once. The negative side is minus the quantiles of its own 8 points.",
    "Put the three parts together with `torch.cat`, sort, and divide by the largest. `ndtri` keeps float64.",
]

SOLUTION = '''\
def normal_levels():
    """The 16 levels of NF4, ascending, float64, from −1 to 1"""
    o = 0.9677083
    positive = torch.special.ndtri(torch.linspace(o, 0.5, 9, dtype=torch.float64))[:-1]
    negative = torch.special.ndtri(torch.linspace(o, 0.5, 8, dtype=torch.float64))[:-1]
    levels = torch.cat([positive, -negative, torch.zeros(1, dtype=torch.float64)])
    return levels.sort().values / positive.max()
'''

RIGHT = {
    "the normal distribution of torch": """\
def normal_levels():
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    o = 0.9677083
    up = normal.icdf(torch.linspace(0.5, o, 9, dtype=torch.float64))
    down = normal.icdf(torch.linspace(1 - o, 0.5, 8, dtype=torch.float64))
    return torch.cat([down[:-1], up.clamp(min=0)]) / up[-1]
""",
    "the standard library": """\
def normal_levels():
    from statistics import NormalDist

    def side(points):
        step = (0.9677083 - 0.5) / (points - 1)
        return [NormalDist().inv_cdf(0.5 + step * i) for i in range(1, points)]

    levels = sorted([-v for v in side(8)] + [0.0] + side(9))
    return torch.tensor([level / max(levels) for level in levels], dtype=torch.float64)
""",
    "float32, made float64 at the end": """\
def normal_levels():
    p = torch.special.ndtri(torch.linspace(0.9677083, 0.5, 9))[:8]
    m = -torch.special.ndtri(torch.linspace(0.9677083, 0.5, 8))[:7]
    return (torch.cat((m, torch.zeros(1), p.flip(0))) / p[0]).double()
""",
    "NumPy": """\
def normal_levels():
    import numpy as np

    def quantiles(points):
        return torch.special.ndtri(torch.from_numpy(np.linspace(0.5, 0.9677083, points)[1:])).numpy()

    levels = np.sort(np.concatenate([-quantiles(8), [0], quantiles(9)]))
    return torch.from_numpy(levels / levels.max())
""",
}

_WRONG = """\
def normal_levels():
    o = {o}
    positive = torch.special.ndtri(torch.linspace(o, 0.5, {up}, dtype=torch.float64)){cut}
    negative = torch.special.ndtri(torch.linspace(o, 0.5, {down}, dtype=torch.float64)){cut}
    levels = torch.cat([positive, -negative, torch.zeros(1, dtype=torch.float64)])
    return {result}
"""
_RIGHT = {"o": "0.9677083", "up": 9, "down": 8, "cut": "[:-1]", "result": "levels.sort().values / positive.max()"}
WRONG = {
    "is symmetric": (
        _WRONG.format(**_RIGHT | {"down": 9}),
        "17 levels: 4 bits name 16, 8 positive, 7 negative and 0",
    ),
    "keeps all zeros": (
        _WRONG.format(**_RIGHT | {"cut": ""}),
        "0 is there three times: either side ends with it, and it counts once",
    ),
    "forgets the zero": (
        _WRONG.format(**_RIGHT | {"result": "torch.cat([positive, -negative]).sort().values / positive.max()"}),
        "15 levels: the 0 is missing",
    ),
    "forgets to normalize": (
        _WRONG.format(**_RIGHT | {"result": "levels.sort().values"}),
        "divide by the largest, so that it becomes 1",
    ),
    "divides by the least": (
        _WRONG.format(**_RIGHT | {"result": "levels.sort().values / levels.min()"}),
        "divide by the largest level, not by the least",
    ),
    "has the sides swapped": (
        _WRONG.format(**_RIGHT | {"up": 8, "down": 9}),
        "there are more positive levels than negative ones",
    ),
    "is not sorted": (
        _WRONG.format(**_RIGHT | {"result": "levels / positive.max()"}),
        "the levels are not ascending: sort them",
    ),
    "is descending": (
        _WRONG.format(**_RIGHT | {"result": "levels.sort(descending=True).values / positive.max()"}),
        "the levels are descending; they go from −1 to 1",
    ),
    "is evenly spaced": (
        "def normal_levels():\n    return torch.linspace(-1, 1, 16, dtype=torch.float64)\n",
        "no level is exactly 0: evenly spaced ones, and not the normal distribution's quantiles",
    ),
    "returns the probabilities": (
        _WRONG.format(
            **_RIGHT
            | {
                "result": "torch.cat([torch.linspace(1 - o, 0.5, 8, dtype=torch.float64)[:-1], "
                "torch.linspace(0.5, o, 9, dtype=torch.float64)])"
            }
        ),
        "those are the probabilities; the levels are their quantiles",
    ),
    "mirrors nothing": (
        _WRONG.format(
            **_RIGHT | {"result": "torch.cat([positive, negative, torch.zeros(1)]).sort().values / positive.max()"}
        ),
        "no level is negative: the quantiles of the negative side are mirrored",
    ),
    "takes evenly spaced levels on either side": (
        """\
def normal_levels():
    negative, positive = torch.linspace(-1, 0, 8), torch.linspace(0, 1, 9)
    return torch.cat([negative[:-1], positive]).double()
""",
        "evenly spaced on either side; the probabilities are evenly spaced, the quantiles are not",
    ),
    "returns float32": (
        _WRONG.format(**_RIGHT | {"result": "(levels.sort().values / positive.max()).float()"}),
        "return float64: `dtype=torch.float64` in each part",
    ),
    "starts elsewhere": (
        _WRONG.format(**_RIGHT | {"o": "1 - 1 / 30"}),
        "is o = 0.9677083?",
    ),
}


def check(student: Callable[..., Any]) -> None:
    levels = torch.tensor(NF4.levels, dtype=torch.float64)
    compare(student, [Case((), levels, "4 bits")], WRONG, parts=("the levels",))
