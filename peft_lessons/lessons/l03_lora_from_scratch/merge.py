"""Fold a LoRA adapter into the weight that it sits on.

Write `merge(weight, A, B, alpha, rank)`. It returns a new tensor, the merged weight

W' = W + (alpha / rank) · B A,

where `weight` is (out, in), `A` is (rank, in) and `B` is (out, rank). The result has the dtype of `weight`; compute in
float32 and round once, at the end. `weight`, `A` and `B` stay as they are.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises import Incorrect, describe
from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "Merge an adapter into its weight"
MINUTES = 5

STARTER = '''\
def merge(weight, A, B, alpha, rank):
    """The merged weight, (out, in), in the dtype of `weight`."""
    return ...
'''

HINTS = [
    "Look at the shapes: which of the two products, `A @ B` or `B @ A`, is (out, in)?",
    "The adapter's part is multiplied by `alpha / rank`. When the two are equal you cannot see it; try other values.",
    "Bring `weight`, `A` and `B` to float32 with `.float()`, add there, and end with `.to(weight.dtype)`.",
]

SOLUTION = '''\
def merge(weight, A, B, alpha, rank):
    """The merged weight, (out, in), in the dtype of `weight`."""
    delta = alpha / rank * (B.float() @ A.float())
    return (weight.float() + delta).to(weight.dtype)
'''

RIGHT = {
    "einsum in float64": """\
def merge(weight, A, B, alpha, rank):
    update = torch.einsum("or,ri->oi", B.double(), A.double())
    return torch.add(weight.double(), update, alpha=alpha / rank).to(weight.dtype)
""",
    "a loop of outer products": """\
def merge(weight, A, B, alpha, rank):
    merged = weight.to(torch.float32, copy=True)
    for r in range(rank):
        merged += alpha / rank * torch.outer(B[:, r].float(), A[r].float())
    return merged.type(weight.dtype)
""",
    "addmm": """\
def merge(weight, A, B, alpha, rank):
    merged = torch.addmm(weight.float(), B.float(), A.float(), alpha=alpha / rank)
    return merged.to(dtype=weight.dtype)
""",
    "linear on the transposed A": """\
def merge(weight, A, B, alpha, rank):
    scaled = B.to(torch.float32) * (alpha / rank)
    return torch.nn.functional.linear(scaled, A.to(torch.float32).T).add(weight).to(weight.dtype)
""",
    "NumPy": """\
def merge(weight, A, B, alpha, rank):
    w, a, b = (tensor.float().numpy() for tensor in (weight, A, B))
    return torch.from_numpy(w + b @ a * (alpha / rank)).to(weight.dtype)
""",
}

_WRONG = """\
def merge(weight, A, B, alpha, rank):
    scaling, product = {scaling}, {product}
    return {result}
"""
_RIGHT = {
    "scaling": "alpha / rank",
    "product": "B.float() @ A.float()",
    "result": "(weight.float() + scaling * product).to(weight.dtype)",
}
WRONG = {
    "forgets the scaling": (_WRONG.format(**_RIGHT | {"scaling": "1"}), "the scaling, alpha / rank, is missing"),
    "forgets to divide by the rank": (_WRONG.format(**_RIGHT | {"scaling": "alpha"}), "alpha is divided by the rank"),
    "turns the scaling upside down": (
        _WRONG.format(**_RIGHT | {"scaling": "rank / alpha"}),
        "the scaling is upside down: it is alpha / rank",
    ),
    "cuts off the scaling": (
        _WRONG.format(**_RIGHT | {"scaling": "alpha // rank"}),
        "`//` cuts off the fraction of alpha / rank",
    ),
    "scales twice": (_WRONG.format(**_RIGHT | {"scaling": "(alpha / rank) ** 2"}), "the update is scaled twice"),
    "divides by the outputs": (
        _WRONG.format(**_RIGHT | {"scaling": "alpha / B.shape[0]"}),
        "`B.shape[0]` is the number of outputs, not the rank",
    ),
    "divides by the inputs": (
        _WRONG.format(**_RIGHT | {"scaling": "alpha / A.shape[1]"}),
        "`A.shape[1]` is the number of inputs, not the rank",
    ),
    "scales the weight too": (
        _WRONG.format(**_RIGHT | {"result": "(scaling * (weight.float() + product)).to(weight.dtype)"}),
        "W itself is not scaled",
    ),
    "multiplies in the wrong order": (
        _WRONG.format(**_RIGHT | {"product": "A.float() @ B.float()"}),
        "that is `A @ B`; the weight is (out, in), so it must be `B @ A`",
    ),
    "transposes the product": (
        _WRONG.format(**_RIGHT | {"product": "(B.float() @ A.float()).T"}),
        "the product is transposed: B A is (out, in) already",
    ),
    "transposes both": (
        _WRONG.format(**_RIGHT | {"product": "B.float().T @ A.float().T"}),
        "A and B are not transposed: B is (out, rank) and A is (rank, in)",
    ),
    "multiplies entry by entry": (
        _WRONG.format(**_RIGHT | {"product": "B.float() * A.float()"}),
        "`*` multiplies entry by entry; a matrix product is `@`",
    ),
    "subtracts": (
        _WRONG.format(**_RIGHT | {"result": "(weight.float() - scaling * product).to(weight.dtype)"}),
        "the update is added, not subtracted",
    ),
    "returns the update alone": (
        _WRONG.format(**_RIGHT | {"result": "(scaling * product).to(weight.dtype)"}),
        "that is the update alone; W is missing",
    ),
    "returns the weight alone": (_WRONG.format(**_RIGHT | {"result": "weight.clone()"}), "that is W alone"),
    "adds in bfloat16": (
        """\
def merge(weight, A, B, alpha, rank):
    return weight + (alpha / rank * (B.float() @ A.float())).to(weight.dtype)
""",
        "the update was rounded before the sum; add in float32 and round once",
    ),
    "multiplies in bfloat16": (
        """\
def merge(weight, A, B, alpha, rank):
    return (weight.float() + alpha / rank * (B @ A)).to(weight.dtype)
""",
        "B A was rounded: bring A and B to float32 before the product",
    ),
    "returns float32": (
        """\
def merge(weight, A, B, alpha, rank):
    return weight.float() + alpha / rank * (B.float() @ A.float())
""",
        "the result has the dtype of `weight`: round to it once, at the end",
    ),
    "returns the dtype of A": (
        _WRONG.format(**_RIGHT | {"result": "(weight.float() + scaling * product).to(A.dtype)"}),
        "the result has the dtype of `weight`, not of A",
    ),
    "changes the weight in place": (
        """\
def merge(weight, A, B, alpha, rank):
    merged = weight.float() + alpha / rank * (B.float() @ A.float())
    return weight.copy_(merged.to(weight.dtype))
""",
        "changed in place",
    ),
}


def check(student: Callable[..., Any]) -> None:
    # Square, so that both orders of the product have the right shape and only the values differ.
    weight = torch.zeros(2, 2)
    A, B = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    square = f"weight = {{}}, A = {describe(A)}, B = {describe(B)}, alpha = {{}} and rank = 2"
    ones = torch.ones(1, 1)
    bf16 = torch.bfloat16
    # Just over half a bfloat16 step above 1: rounding the sum goes up, rounding the update first loses the excess and
    # then ties to even, back to 1.
    excess = torch.tensor([[1 + 2**-10]]), torch.tensor([[2**-8]])
    # B A = 1 + 2⁻⁹ is 1 in bfloat16, and what that loses decides how the sum is rounded.
    lost = torch.tensor([[1.0], [2**-9]], dtype=bf16), torch.ones(1, 2, dtype=bf16)
    W, left, right = (part.bfloat16() for part in _random(40, 30, 3, alpha=4).arguments[:3])
    cases = [
        Case((weight, A, B, 2, 2), B @ A, square.format(describe(weight), 2)),
        Case((weight, A, B, 8, 2), 4 * B @ A, square.format(describe(weight), 8)),
        Case((weight, A, B, 3, 2), 1.5 * B @ A, square.format(describe(weight), 3)),
        Case((A, A, B, 3, 2), A + 1.5 * B @ A, square.format(describe(A), 3)),
        Case((ones, ones, ones, 1, 1), 2 * ones, "weight, A, B, alpha and rank all 1"),
        _random(5, 7, 3, alpha=4),
        _random(7, 4, 1, alpha=2),
        _rounded(torch.ones(1, 1, dtype=bf16), *excess, "a bfloat16 weight of 1 and B A = 1.000977 · 2⁻⁸ in float32"),
        _rounded(torch.tensor([[1.5 * 2**-9]], dtype=bf16), *lost, "a bfloat16 weight of 1.5 · 2⁻⁹ and B A = 1 + 2⁻⁹"),
        Case((torch.zeros(1, 1), *lost, 2, 2), torch.tensor([[1 + 2**-9]]), "a float32 weight of 0 and B A = 1 + 2⁻⁹"),
        _rounded(W, left, right, "a random (40, 30) matrix, A and B in bfloat16", alpha=4),
    ]
    compare(student, cases, WRONG, tolerance=2e-6)
    before = torch.ones(1, 1)
    if student(before, torch.zeros(1, 1), ones, 1, 1).data_ptr() == before.data_ptr():
        raise Incorrect("with an update of zero you return `weight` itself: return a new tensor, a copy")


def _random(outputs: int, inputs: int, rank: int, alpha: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    weight, A, B = (torch.randn(s, generator=generator) for s in ((outputs, inputs), (rank, inputs), (outputs, rank)))
    exact = weight.double() + alpha / rank * (B.double() @ A.double())
    return Case(
        (weight, A, B, alpha, rank),
        exact.float(),
        f"a random {(outputs, inputs)} weight, rank {rank} and alpha {alpha}",
    )


def _rounded(weight: Tensor, A: Tensor, B: Tensor, words: str, alpha: int | None = None) -> Case:
    """A bfloat16 weight; each entry must be the bfloat16 nearest to the exact sum. Without alpha, it is the rank."""
    rank = A.shape[0]
    alpha = alpha or rank
    update = alpha / rank * (B.double() @ A.double())
    exact = weight.double() + update
    nearest = exact.bfloat16()
    # float32's own error may decide where two are almost equally near
    allowed = (nearest.double() - exact).abs() + 1e-6 * (weight.double().abs() + update.abs())

    def right(merged: Any, expected: Tensor) -> bool:
        same_kind = isinstance(merged, Tensor) and merged.shape == expected.shape and merged.dtype == expected.dtype
        return same_kind and bool(((merged.double() - exact).abs() <= allowed).all())

    return Case((weight, A, B, alpha, rank), nearest, f"{words}, rank {rank} and alpha {alpha}", right)
