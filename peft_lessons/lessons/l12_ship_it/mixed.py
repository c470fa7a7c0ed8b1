"""Give each sample of a batch its own adapter.

Write `mixed(x, weight, adapters, names)`. `weight` (out, in) is the frozen base, `adapters` maps a name to a tuple
(A, B, scaling) with A (rank, in) and B (out, rank), and `names` has one name for each sample of x (batch, ..., in).
Sample i gives W x + scaling · B A x with the adapter `names[i]`; None stands for the base alone. Ranks may differ.
Return a new tensor (batch, ..., out) with the samples in the order in which they came.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "Two customers in one batch"
MINUTES = 8

STARTER = '''\
def mixed(x, weight, adapters, names):
    """(batch, …, in) → (batch, …, out), each sample with the adapter of its name; None is the base"""
    return ...
'''

HINTS = [
    "The base is the same for all: `y = x @ weight.T` at once. Then add to each sample what its adapter adds.",
    "`for i, name in enumerate(names)`: if the name is None, nothing is added to `y[i]`.",
    "`A, B, scaling = adapters[name]`, then `y[i] = y[i] + scaling * (x[i] @ A.T @ B.T)`.",
]

SOLUTION = '''\
def mixed(x, weight, adapters, names):
    """(batch, …, in) → (batch, …, out), each sample with the adapter of its name; None is the base"""
    y = x @ weight.T
    for i, name in enumerate(names):
        if name is not None:
            A, B, scaling = adapters[name]
            y[i] = y[i] + scaling * (x[i] @ A.T @ B.T)
    return y
'''

RIGHT = {
    "a list of samples": """\
def mixed(x, weight, adapters, names):
    rows = []
    for sample, name in zip(x, names):
        y = torch.nn.functional.linear(sample, weight)
        if name in adapters:
            A, B, scaling = adapters[name]
            y = y + torch.nn.functional.linear(torch.nn.functional.linear(sample, A), B) * scaling
        rows.append(y)
    return torch.stack(rows)
""",
    "group by group": """\
def mixed(x, weight, adapters, names):
    y = torch.einsum("...i,oi->...o", x, weight)
    for name, (A, B, scaling) in adapters.items():
        rows = [i for i, other in enumerate(names) if other == name]
        if rows:
            y[rows] += scaling * (x[rows] @ A.T @ B.T)
    return y
""",
    "a merged weight for each sample": """\
def mixed(x, weight, adapters, names):
    def merged(name):
        if name is None:
            return weight
        A, B, scaling = adapters[name]
        return weight + scaling * B @ A

    return torch.stack([x[i] @ merged(name).T for i, name in enumerate(names)])
""",
}

_WRONG = """\
def mixed(x, weight, adapters, names):
    y = {base}
    for i, name in enumerate({order}):
        if name is not None:
            A, B, scaling = adapters[name]
            y[i] = y[i] + {update}
    return y
"""
_RIGHT = {"base": "x @ weight.T", "order": "names", "update": "scaling * (x[i] @ A.T @ B.T)"}


def _wrong(**changes: str) -> str:
    return _WRONG.format(**_RIGHT | changes)


WRONG = {
    "gives everybody the first adapter": (
        _wrong(order="[names[0]] * len(names)"),
        "all samples get the adapter of the first",
    ),
    "adds all adapters to every sample": (
        """\
def mixed(x, weight, adapters, names):
    y = x @ weight.T
    for A, B, scaling in adapters.values():
        y = y + scaling * (x @ A.T @ B.T)
    return y
""",
        "every sample gets all adapters; each shall have its own alone",
    ),
    "takes adapters in their order, not by name": (
        """\
def mixed(x, weight, adapters, names):
    y = x @ weight.T
    order = list(adapters.values())
    for i, name in enumerate(names):
        if name is not None:
            A, B, scaling = order[i % len(order)]
            y[i] = y[i] + scaling * (x[i] @ A.T @ B.T)
    return y
""",
        "adapters are taken in the order of the dictionary; look them up by the sample's name",
    ),
    "gives the base to nobody": (
        """\
def mixed(x, weight, adapters, names):
    y = x @ weight.T
    for i, name in enumerate(names):
        A, B, scaling = adapters[name or next(iter(adapters))]
        y[i] = y[i] + scaling * (x[i] @ A.T @ B.T)
    return y
""",
        "None stands for the base alone: nothing is added there",
    ),
    "forgets the scaling": (_wrong(update="x[i] @ A.T @ B.T"), "the scaling of the adapter is missing"),
    "forgets the base": (
        _wrong(base="x.new_zeros(*x.shape[:-1], weight.shape[0])"),
        "the base's W x is missing",
    ),
    "sorts the samples": (
        """\
def mixed(x, weight, adapters, names):
    groups = []
    for name in dict.fromkeys(names):
        rows = x[[i for i, other in enumerate(names) if other == name]]
        y = rows @ weight.T
        if name is not None:
            A, B, scaling = adapters[name]
            y = y + scaling * (rows @ A.T @ B.T)
        groups.append(y)
    return torch.cat(groups)
""",
        "the samples come back in another order: sorted by adapter",
    ),
    "takes the input of the first sample": (
        _wrong(update="scaling * (x[0] @ A.T @ B.T)"),
        "the update is computed from the first sample, not from each its own",
    ),
    "subtracts the update": (_wrong(update="-scaling * (x[i] @ A.T @ B.T)"), "the update is added, not subtracted"),
    "adds to the base's output scaled": (
        _wrong(base="x @ weight.T * 2"),
        "the base counts once, without a factor",
    ),
}


def check(student: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weight = random(5, 4)
    adapters = {"devil": (random(2, 4), random(5, 2), 2.0), "json": (random(3, 4), random(5, 3), 0.5)}
    cases = [
        _case(random(2, 4), weight, adapters, ["devil", "json"]),
        _case(random(3, 4), weight, adapters, ["json", None, "devil"]),
        _case(random(4, 4), weight, adapters, ["json", "devil", "json", "devil"]),
        _case(random(3, 2, 4), weight, adapters, [None, "json", "json"]),
        _case(random(1, 4), weight, {"devil": adapters["devil"]}, [None]),
    ]
    compare(student, cases, WRONG)


def _case(
    x: Tensor, weight: Tensor, adapters: dict[str, tuple[Tensor, Tensor, float]], names: list[str | None]
) -> Case:
    rows = []
    for sample, name in zip(x.double(), names, strict=True):
        y = sample @ weight.double().T
        if name is not None:
            A, B, scaling = adapters[name]
            y = y + scaling * (sample @ A.double().T @ B.double().T)
        rows.append(y)
    shape = " × ".join(map(str, x.shape))
    return Case((x, weight, adapters, names), torch.stack(rows).float(), f"x of {shape} and names {names}")
