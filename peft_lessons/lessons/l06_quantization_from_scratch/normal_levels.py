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

from peft_lessons.classroom.exercises import Incorrect, require_tensor
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

_WRONG = """\
def normal_levels():
    o = 0.9677083
    positive = torch.special.ndtri(torch.linspace(o, 0.5, {up}, dtype=torch.float64))[:-1]
    negative = torch.special.ndtri(torch.linspace(o, 0.5, {down}, dtype=torch.float64))[:-1]
    levels = torch.cat([positive, -negative, torch.zeros(1, dtype=torch.float64)])
    return {result}
"""

WRONG = {
    "is symmetric": (_WRONG.format(up=9, down=9, result="levels.sort().values / positive.max()"), "17 levels"),
    "forgets to normalize": (_WRONG.format(up=9, down=8, result="levels.sort().values"), "divide by the largest"),
    "has the sides swapped": (
        _WRONG.format(up=8, down=9, result="levels.sort().values / positive.max()"),
        "more positive levels than negative ones",
    ),
    "is not sorted": (_WRONG.format(up=9, down=8, result="levels / positive.max()"), "ascending"),
    "is evenly spaced": (
        """\
def normal_levels():
    return torch.linspace(-1, 1, 16, dtype=torch.float64)
""",
        "no level is exactly 0",
    ),
}


def check(student: Callable[..., Any]) -> None:
    returned = student()
    if isinstance(returned, torch.Tensor) and returned.dim() == 1 and len(returned) != 16:
        raise Incorrect(f"you return {len(returned)} levels; 4 bits name 16: 8 positive, 7 negative and 0")
    levels = require_tensor(returned, (16,), torch.float64, "the list of levels")
    if not (levels.diff() > 0).all():
        raise Incorrect("the levels are not ascending: sort them")
    if not (levels == 0).any():
        raise Incorrect("no level is exactly 0, so that a weight of 0 would change")
    if (levels > 0).sum() != 8:
        raise Incorrect(
            f"{int((levels > 0).sum())} levels are positive; there are more positive levels than negative ones"
        )
    if abs(levels.max() - 1) > 1e-9:
        raise Incorrect(f"the largest level is {levels.max():.4f}, it should be 1: divide by the largest")
    off = (levels - torch.tensor(NF4.levels, dtype=torch.float64)).abs()
    if off.max() > 1e-4:
        worst = int(off.argmax())
        raise Incorrect(f"level {worst + 1} of 16 is {levels[worst]:.5f}, it should be {NF4.levels[worst]:.5f}")
