"""Write the forward pass of two methods that you choose.

`adapted(method, x, W, p)` returns what a layer with frozen weight W (out, in) makes of x (n, in), where `method` is
"VeRA", "DoRA", "IA³" or "LoHa", and `p` holds its numbers by name. Return None for the methods that you leave out.

| method | formula | p |
|---|---|---|
| VeRA | $Wx + b \\odot B(d \\odot Ax)$ | A (r, in), B (out, r), b (out,), d (r,) |
| DoRA | $Vx$ with $V$ the rows of $W + BA$, brought to the lengths $m$ | A (r, in), B (out, r), m (out,) |
| IA³ | $l \\odot Wx$ | l (out,) |
| LoHa | $Wx + \\big((B_1A_1) \\odot (B_2A_2)\\big)x$ | A1, A2 (r, in), B1, B2 (out, r) |
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises import Incorrect
from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "Two forward passes of your choice"
MINUTES = 10

STARTER = '''\
def adapted(method, x, W, p):
    """The output (n, out) of a layer with "VeRA", "DoRA", "IA³" or "LoHa"; None for those that you leave out"""
    return ...
'''

HINTS = [
    'Begin with `if method == "IA³":`. A formula for one x, such as W x, is `x @ W.T` for all rows at once.',
    'A vector of length out multiplies the outputs: `p["l"] * (x @ W.T)`. In VeRA, d multiplies what A gives, b what B '
    "gives.",
    "DoRA: the lengths of the rows of V are `V.norm(dim=1, keepdim=True)`; divide by them, multiply by `m[:, None]`. "
    "LoHa: `*` multiplies entry by entry, `@` multiplies matrices.",
]

SOLUTION = '''\
def adapted(method, x, W, p):
    """The output (n, out) of a layer with "VeRA", "DoRA", "IA³" or "LoHa"; None for those that you leave out"""
    if method == "VeRA":
        return x @ W.T + p["b"] * (p["d"] * (x @ p["A"].T) @ p["B"].T)
    if method == "DoRA":
        V = W + p["B"] @ p["A"]
        return x @ (p["m"][:, None] * V / V.norm(dim=1, keepdim=True)).T
    if method == "IA³":
        return p["l"] * (x @ W.T)
    if method == "LoHa":
        return x @ (W + (p["B1"] @ p["A1"]) * (p["B2"] @ p["A2"])).T
    return None
'''

RIGHT = {
    "two of them": """\
def adapted(method, x, W, p):
    y = torch.nn.functional.linear(x, W)
    if method == "IA³":
        return y * p["l"]
    if method == "VeRA":
        return y + torch.nn.functional.linear(torch.nn.functional.linear(x, p["A"]) * p["d"], p["B"]) * p["b"]
""",
    "a new weight for each": """\
def adapted(method, x, W, p):
    weights = {
        "VeRA": lambda: W + (p["b"][:, None] * p["B"]) @ (p["d"][:, None] * p["A"]),
        "DoRA": lambda: torch.nn.functional.normalize(W + p["B"] @ p["A"], dim=1) * p["m"].unsqueeze(1),
        "IA³": lambda: torch.diag(p["l"]) @ W,
    }
    return x @ weights[method]().T if method in weights else None
""",
    "einsum": """\
def adapted(method, x, W, p):
    match method:
        case "LoHa":
            update = torch.einsum("or,ri,os,si->oi", p["B1"], p["A1"], p["B2"], p["A2"])
            return torch.einsum("ni,oi->no", x, W + update)
        case "DoRA":
            V = W + torch.einsum("or,ri->oi", p["B"], p["A"])
            return torch.einsum("ni,oi->no", x, V) * p["m"] / V.square().sum(1).sqrt()
        case _:
            return None
""",
}

_LINES = {
    "VeRA": 'x @ W.T + p["b"] * (p["d"] * (x @ p["A"].T) @ p["B"].T)',
    "DoRA": 'x @ (p["m"][:, None] * (W + p["B"] @ p["A"]) / (W + p["B"] @ p["A"]).norm(dim=1, keepdim=True)).T',
    "IA³": 'p["l"] * (x @ W.T)',
    "LoHa": 'x @ (W + (p["B1"] @ p["A1"]) * (p["B2"] @ p["A2"])).T',
}


def _wrong(**lines: str) -> str:
    cases = "".join(f"    if method == {name!r}:\n        return {line}\n" for name, line in (_LINES | lines).items())
    return f"def adapted(method, x, W, p):\n{cases}"


WRONG = {
    "forgets W in VeRA": (_wrong(VeRA='p["b"] * (p["d"] * (x @ p["A"].T) @ p["B"].T)'), "the base's W x is missing"),
    "forgets d": (_wrong(VeRA='x @ W.T + p["b"] * (x @ p["A"].T @ p["B"].T)'), "d, between A and B, is missing"),
    "forgets b": (_wrong(VeRA='x @ W.T + p["d"] * (x @ p["A"].T) @ p["B"].T'), "b, behind B, is missing"),
    "scales W x by b, too": (
        _wrong(VeRA='p["b"] * (x @ W.T + p["d"] * (x @ p["A"].T) @ p["B"].T)'),
        "b scales the update alone, not W x",
    ),
    "forgets the lengths": (
        _wrong(DoRA='p["m"] * (x @ (W + p["B"] @ p["A"]).T)'),
        "the rows of W + BA have to be brought to length 1 before m gives them their own",
    ),
    "divides by the lengths of W": (
        _wrong(DoRA='x @ (p["m"][:, None] * (W + p["B"] @ p["A"]) / W.norm(dim=1, keepdim=True)).T'),
        "divide by the lengths of W + BA, not by those of W",
    ),
    "takes columns": (
        _wrong(DoRA='x @ (p["m"][:, None] * (W + p["B"] @ p["A"]) / (W + p["B"] @ p["A"]).norm(dim=0)).T'),
        "those are the lengths of the columns; DoRA takes those of the rows",
    ),
    "one length for all": (
        _wrong(DoRA='x @ (p["m"][:, None] * (W + p["B"] @ p["A"]) / (W + p["B"] @ p["A"]).norm()).T'),
        "each row has a length of its own; `norm()` without dim is one for the whole matrix",
    ),
    "forgets m": (
        _wrong(DoRA='x @ ((W + p["B"] @ p["A"]) / (W + p["B"] @ p["A"]).norm(dim=1, keepdim=True)).T'),
        "the rows have length 1; m, which says how long they shall be, is missing",
    ),
    "forgets DoRA's W": (
        _wrong(DoRA='x @ (p["m"][:, None] * (p["B"] @ p["A"]) / (p["B"] @ p["A"]).norm(dim=1, keepdim=True)).T'),
        "W is missing: the rows are those of W + BA",
    ),
    "adds l": (_wrong(**{"IA³": 'p["l"] + x @ W.T'}), "l multiplies the outputs"),
    "adds to what is scaled": (
        _wrong(**{"IA³": 'x @ W.T + p["l"] * (x @ W.T)'}),
        "l multiplies W x, and nothing is added",
    ),
    "one product too many": (
        _wrong(LoHa='x @ (W + (p["B1"] @ p["A1"]) @ (p["B2"] @ p["A2"]).T @ W).T'),
        "the two products are multiplied entry by entry, with `*`",
    ),
    "adds the products": (
        _wrong(LoHa='x @ (W + p["B1"] @ p["A1"] + p["B2"] @ p["A2"]).T'),
        "the two products are multiplied entry by entry, not added",
    ),
    "one pair": (_wrong(LoHa='x @ (W + p["B1"] @ p["A1"]).T'), "the second pair, B2 and A2, is missing"),
    "forgets W in LoHa": (
        _wrong(LoHa='x @ ((p["B1"] @ p["A1"]) * (p["B2"] @ p["A2"])).T'),
        "the base's W x is missing",
    ),
}


def check(student: Callable[..., Any]) -> None:
    cases = [
        _case(method, n, inputs, outputs, rank, seed)
        for seed, (n, inputs, outputs, rank) in enumerate([(2, 4, 3, 2), (5, 3, 6, 1), (1, 8, 8, 3)])
        for method in _LINES
    ]
    first = {case.arguments[0]: case for case in reversed(cases)}
    chosen = [method for method, case in first.items() if _answer(student, case) is not None]
    if len(chosen) < 2:
        silent = f"all but {chosen[0]}" if chosen else "all"
        raise Incorrect(
            f"return the output for two of {', '.join(_LINES)} at least; yours returns None for {silent} of them"
        )
    compare(student, [case for case in cases if case.arguments[0] in chosen], WRONG)


def _answer(student: Callable[..., Any], case: Case) -> Any:
    """What the student returns; an error counts as an answer, which `compare` then reports."""
    method, x, W, p = case.arguments
    try:
        return student(method, x.clone(), W.clone(), {name: tensor.clone() for name, tensor in p.items()})
    except Exception as error:
        return error


def _case(method: str, n: int, inputs: int, outputs: int, rank: int, seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, W, A, B = random(n, inputs), random(outputs, inputs), random(rank, inputs), random(outputs, rank)
    p = {
        "VeRA": {"A": A, "B": B, "b": random(outputs), "d": random(rank)},
        "DoRA": {"A": A, "B": B, "m": random(outputs).abs() + 0.5},
        "IA³": {"l": random(outputs)},
        "LoHa": {"A1": A, "B1": B, "A2": random(rank, inputs), "B2": random(outputs, rank)},
    }[method]
    X, V = x.double(), W.double()
    q = {name: tensor.double() for name, tensor in p.items()}
    if method == "VeRA":
        V = V + torch.diag(q["b"]) @ q["B"] @ torch.diag(q["d"]) @ q["A"]
    elif method == "DoRA":
        V = V + q["B"] @ q["A"]
        V = torch.diag(q["m"] / V.norm(dim=1)) @ V
    elif method == "IA³":
        V = torch.diag(q["l"]) @ V
    else:
        V = V + (q["B1"] @ q["A1"]) * (q["B2"] @ q["A2"])
    words = f"{method}, x of {n} × {inputs} and W of {outputs} × {inputs}"
    return Case((method, x, W, p), (X @ V.T).float(), words)
