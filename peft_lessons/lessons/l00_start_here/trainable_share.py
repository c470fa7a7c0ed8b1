"""Which share of a model trains?

Write `trainable_share(model)`: the number of trainable values divided by the number of all values in the model's
parameters, between 0 and 1. A parameter trains when its `requires_grad` is true.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from peft_lessons.classroom.exercises import Incorrect, NotAttempted, describe

TITLE = "Which share of a model trains?"
MINUTES = 3

STARTER = '''\
def trainable_share(model):
    """Trainable values divided by all values, between 0 and 1."""
    return ...
'''

HINTS = [
    "`model.parameters()` goes through all parameters. Each is a tensor with many values in it.",
    "`parameter.numel()` is the number of values in a parameter; `parameter.requires_grad` says whether it trains.",
    "Two sums: `sum(p.numel() for p in model.parameters() if p.requires_grad)`, and the same without the `if`.",
]

SOLUTION = '''\
def trainable_share(model):
    """Trainable values divided by all values, between 0 and 1."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable / sum(p.numel() for p in model.parameters())
'''

WRONG = {
    "counts parameters, not their values": (
        """\
def trainable_share(model):
    parameters = list(model.parameters())
    return sum(p.requires_grad for p in parameters) / len(parameters)
""",
        "counts tensors",
    ),
    "divides by what is frozen": (
        """\
def trainable_share(model):
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable / max(1, sum(p.numel() for p in model.parameters() if not p.requires_grad))
""",
        "frozen values",
    ),
    "ignores requires_grad": (
        """\
def trainable_share(model):
    return sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in model.parameters())
""",
        "`requires_grad`",
    ),
    "gives per cent": (
        """\
def trainable_share(model):
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return 100 * trainable / sum(p.numel() for p in model.parameters())
""",
        "per cent",
    ),
}


def check(student: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.Linear(3, 1, bias=True), nn.Linear(1, 2, bias=False))
    model[0].weight.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    # 3 + 1 values are frozen, 2 train; of the three tensors, one trains
    case = "a model with 4 frozen values in two tensors and 2 trainable ones in one tensor"
    _compare(
        student(model), 2 / 6, case, {"counts tensors": 1 / 3 + 1e-9, "frozen values": 2 / 4, "requires_grad": 1.0}
    )

    model = nn.Sequential(nn.Linear(7, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False))
    model[0].requires_grad_(False)
    case = "a model with 7 frozen values in one tensor and 3 trainable ones in two"
    _compare(student(model), 0.3, case, {"counts tensors": 2 / 3, "frozen values": 3 / 7, "requires_grad": 1.0})

    everything = torch.nn.Linear(2, 2)
    _compare(student(everything), 1.0, "a fresh `nn.Linear`, in which everything trains", {})


def _compare(returned: Any, expected: float, case: str, mistakes: dict[str, float]) -> None:
    if returned is ...:
        raise NotAttempted
    if isinstance(returned, bool) or not isinstance(returned, int | float | torch.Tensor):
        raise Incorrect(f"for {case} you return {describe(returned)}, it should be the number {expected:.3f}")
    share = float(returned)
    if abs(share - expected) < 1e-6:
        return
    said = f"for {case} you return {share:.3f}, it should be {expected:.3f}"
    why = {
        "counts tensors": "that counts tensors; count the values in them, with `numel()`",
        "frozen values": "that divides by the frozen values; divide by all of them",
        "requires_grad": "that counts everything as trainable; look at `requires_grad`",
    }
    for name, value in mistakes.items():
        if abs(share - value) < 1e-6:
            raise Incorrect(f"{said}: {why[name]}")
    if abs(share - 100 * expected) < 1e-4:
        raise Incorrect(f"{said}: that is in per cent, return a share between 0 and 1")
    raise Incorrect(said)
