"""Which share of a model trains?

Write `trainable_share(model)`: the number of trainable values divided by the number of all values in the model's
parameters, between 0 and 1. A parameter trains when its `requires_grad` is true.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from peft_lessons.classroom.exercises.cases import Case, compare

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

RIGHT = {
    "a loop over names": """\
def trainable_share(model):
    trainable = total = 0
    for name, parameter in model.named_parameters():
        count = parameter.data.flatten().shape[0]
        total += count
        if parameter.requires_grad is True:
            trainable += count
    return trainable / total
""",
    "a tensor": """\
def trainable_share(model):
    counts = torch.tensor([p.nelement() for p in model.parameters()], dtype=torch.float32)
    trains = torch.tensor([p.requires_grad for p in model.parameters()])
    return counts[trains].sum() / counts.sum()
""",
    "products of shapes, in NumPy": """\
def trainable_share(model):
    import numpy as np

    counts = [(np.prod(p.shape), p.requires_grad) for p in model.parameters()]
    return np.sum([count * trains for count, trains in counts]) / np.sum([count for count, _ in counts])
""",
    "one less the frozen share": """\
def trainable_share(model):
    parameters = list(model.parameters())
    frozen = sum(p.numel() for p in filter(lambda p: not p.requires_grad, parameters))
    return 1 - frozen / sum(p.numel() for p in parameters)
""",
}

_WRONG = """\
def trainable_share(model):
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    total = sum(p.numel() for p in parameters)
    return {}
"""
WRONG = {
    "counts parameters, not their values": (
        _WRONG.format("sum(p.requires_grad for p in parameters) / len(parameters)"),
        "that counts tensors; count the values in them, with `numel()`",
    ),
    "counts rows": (
        _WRONG.format("sum(len(p) for p in parameters if p.requires_grad) / sum(len(p) for p in parameters)"),
        "`len` and `shape[0]` count the rows of a matrix; count its values",
    ),
    "divides by what is frozen": (
        _WRONG.format("trainable / max(1, total - trainable)"),
        "that divides by the frozen values; divide by all of them",
    ),
    "ignores requires_grad": (
        _WRONG.format("total / total"),
        "that counts everything as trainable; look at `requires_grad`",
    ),
    "gives per cent": (
        _WRONG.format("100 * trainable / total"),
        "that is in per cent, return a share between 0 and 1",
    ),
    "gives the frozen share": (_WRONG.format("1 - trainable / total"), "that is the share that is frozen"),
    "gives the number": (_WRONG.format("trainable"), "that is how many train; divide by all"),
    "is upside down": (_WRONG.format("total / max(1, trainable)"), "that is upside down"),
    "divides whole numbers": (_WRONG.format("trainable // total"), "`//` cuts off the fraction; divide with `/`"),
    "counts a shared tensor twice": (
        """\
def trainable_share(model):
    parameters = [p for module in model.modules() for p in module.parameters(recurse=False)]
    return sum(p.numel() for p in parameters if p.requires_grad) / sum(p.numel() for p in parameters)
""",
        "a tensor that two layers share counts once",
    ),
    "counts buffers": (
        """\
def trainable_share(model):
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = list(model.parameters()) + list(model.buffers())
    return trainable / sum(tensor.numel() for tensor in everything)
""",
        "running means are buffers, not parameters",
    ),
}


def check(student: Callable[..., Any]) -> None:
    mixed = nn.Sequential(nn.Linear(3, 1, bias=True), nn.Linear(1, 2, bias=False))
    mixed[0].requires_grad_(False)
    wide = nn.Sequential(nn.Linear(7, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False))
    wide[0].requires_grad_(False)
    square = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1, bias=False))
    square[0].requires_grad_(False)
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight
    tied[0].bias.requires_grad_(False)
    normed = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    normed[0].requires_grad_(False)
    cases = [
        Case((mixed,), 2 / 6, "a model with 4 frozen values in two tensors and 2 trainable ones in one tensor"),
        Case((wide,), 3 / 10, "a model with 7 frozen values in one tensor and 3 trainable ones in two"),
        Case((square,), 3 / 15, "a model with 12 frozen values, in a 3 × 3 matrix and a bias, and 3 trainable ones"),
        Case((nn.Linear(2, 2),), 1.0, "a fresh `nn.Linear`, in which everything trains"),
        Case((nn.Linear(2, 2).requires_grad_(False),), 0.0, "an `nn.Linear` in which nothing trains"),
        Case(
            (tied,), 4 / 6, "a model whose two layers share one weight of 4 trainable values, with a frozen bias of 2"
        ),
        Case((normed,), 2 / 4, "a model with 2 frozen values, 2 trainable ones and a batch norm's running means"),
    ]
    compare(student, cases, WRONG)
