"""The forward pass of LoRA.

Write `lora_forward(x, weight, bias, A, B, alpha)`. It returns x W₀ᵀ + b + (alpha / rank) · x Aᵀ Bᵀ, where `x` is
(…, in), `weight` (out, in), `bias` (out,) or None, `A` (rank, in) and `B` (out, rank). The rank is in the shapes.
B A itself, as large as W₀, is never built.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises import Incorrect, describe
from peft_lessons.classroom.exercises.cases import Case, compare
from peft_lessons.classroom.exercises.operations import ProductSeen

TITLE = "LoRA's forward pass"
MINUTES = 5

STARTER = '''\
def lora_forward(x, weight, bias, A, B, alpha):
    """(…, in) → (…, out)"""
    return ...
'''

HINTS = [
    "`torch.nn.functional.linear(x, weight, bias)` is the base layer's part. It takes None for the bias.",
    "A is (rank, in), so `A.shape[0]` is the rank. `x @ A.T` goes down to (…, rank).",
    "Down and up again, then the scaling: `alpha / A.shape[0] * (x @ A.T @ B.T)`.",
]

SOLUTION = '''\
def lora_forward(x, weight, bias, A, B, alpha):
    """(…, in) → (…, out)"""
    base = torch.nn.functional.linear(x, weight, bias)
    return base + alpha / A.shape[0] * (x @ A.T @ B.T)
'''

RIGHT = {
    "linear three times": """\
def lora_forward(x, weight, bias, A, B, alpha):
    F = torch.nn.functional
    rank, _ = A.shape
    return F.linear(x, weight, bias) + F.linear(F.linear(x, A), B) * (alpha / rank)
""",
    "einsum": """\
def lora_forward(x, weight, bias, A, B, alpha):
    down = torch.einsum("...i,ri->...r", x, A)
    y = torch.einsum("...i,oi->...o", x, weight) + torch.einsum("...r,or->...o", down, B) * alpha / len(A)
    return y if bias is None else y + bias
""",
    "a loop over the rank": """\
def lora_forward(x, weight, bias, A, B, alpha):
    y = x @ weight.T
    if bias is not None:
        y = y + bias
    for r in range(B.shape[1]):
        y = y + alpha / B.shape[1] * (x @ A[r]).unsqueeze(-1) * B[:, r]
    return y
""",
    "float64 inside": """\
def lora_forward(x, weight, bias, A, B, alpha):
    wide = x.double()
    y = wide @ weight.double().T + alpha / A.size(0) * (wide @ A.double().mT) @ B.double().mT
    if bias is not None:
        y += bias.double()
    return y.to(x.dtype)
""",
    "NumPy": """\
def lora_forward(x, weight, bias, A, B, alpha):
    a, b = A.numpy(), B.numpy()
    y = x.numpy() @ weight.numpy().T + x.numpy() @ a.T @ b.T * (alpha / len(a))
    return torch.as_tensor(y if bias is None else y + bias.numpy())
""",
}

_WRONG = """\
def lora_forward(x, weight, bias, A, B, alpha):
    base = torch.nn.functional.linear(x, weight, bias)
    return {result}
"""

WRONG = {
    "forgets the scaling": (_WRONG.format(result="base + x @ A.T @ B.T"), "that is without alpha / rank"),
    "forgets to divide by the rank": (
        _WRONG.format(result="base + alpha * (x @ A.T @ B.T)"),
        "alpha is divided by the rank",
    ),
    "divides by alpha": (
        _WRONG.format(result="base + A.shape[0] / alpha * (x @ A.T @ B.T)"),
        "the scaling is upside down: it is alpha / rank",
    ),
    "scales twice": (
        _WRONG.format(result="base + (alpha / A.shape[0]) ** 2 * (x @ A.T @ B.T)"),
        "the update is scaled twice",
    ),
    "multiplies by the rank": (
        _WRONG.format(result="base + alpha * A.shape[0] * (x @ A.T @ B.T)"),
        "divide by the rank",
    ),
    "cuts off the scaling": (
        _WRONG.format(result="base + alpha // A.shape[0] * (x @ A.T @ B.T)"),
        "`//` cuts off the fraction of alpha / rank",
    ),
    "takes the root of the rank": (
        _WRONG.format(result="base + alpha / A.shape[0] ** 0.5 * (x @ A.T @ B.T)"),
        "the scaling is alpha / rank here, not alpha / √rank",
    ),
    "takes the rank from the wrong side": (
        _WRONG.format(result="base + alpha / A.shape[1] * (x @ A.T @ B.T)"),
        "`A.shape[1]` is the number of inputs; the rank is `A.shape[0]`",
    ),
    "takes the rank from the outputs": (
        _WRONG.format(result="base + alpha / B.shape[0] * (x @ A.T @ B.T)"),
        "`B.shape[0]` is the number of outputs; the rank is `B.shape[1]`",
    ),
    "subtracts": (
        _WRONG.format(result="base - alpha / A.shape[0] * (x @ A.T @ B.T)"),
        "the update is added, not subtracted",
    ),
    "leaves the base out": (_WRONG.format(result="alpha / A.shape[0] * (x @ A.T @ B.T)"), "x W₀ᵀ + b is missing"),
    "leaves the update out": (_WRONG.format(result="base"), "that is the base alone; the update is missing"),
    "scales the base too": (
        _WRONG.format(result="alpha / A.shape[0] * (base + x @ A.T @ B.T)"),
        "the base is scaled too; only the update is",
    ),
    "loses the bias": (
        """\
def lora_forward(x, weight, bias, A, B, alpha):
    return x @ weight.T + alpha / A.shape[0] * (x @ A.T @ B.T)
""",
        "the bias is missing",
    ),
    "counts the bias twice": (
        _WRONG.format(result="base + alpha / A.shape[0] * (x @ A.T @ B.T) + (0 if bias is None else bias)"),
        "the bias is counted twice",
    ),
    "scales the bias": (
        """\
def lora_forward(x, weight, bias, A, B, alpha):
    update = x @ A.T @ B.T + (0 if bias is None else bias)
    return x @ weight.T + alpha / A.shape[0] * update
""",
        "the bias is scaled; it belongs to the base",
    ),
    "expects a bias": (
        """\
def lora_forward(x, weight, bias, A, B, alpha):
    return x @ weight.T + bias + alpha / A.shape[0] * (x @ A.T @ B.T)
""",
        "the bias may be None",
    ),
    "builds B A": (_WRONG.format(result="base + alpha / A.shape[0] * (x @ (B @ A).T)"), "builds B A"),
    "adds in place": (
        """\
def lora_forward(x, weight, bias, A, B, alpha):
    weight += alpha / A.shape[0] * B @ A
    return torch.nn.functional.linear(x, weight, bias)
""",
        "`weight` was",
    ),
}


def check(student: Callable[..., Any]) -> None:
    x, weight = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, -1.0]])
    A, B = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    small = f"x = {describe(x)}, W₀x = −2, B A x = 3, rank 2 and alpha 8"  # each mistake gives another number
    bias = torch.tensor([5.0])
    cases = [
        Case((x, weight, None, A, B, 8), torch.tensor([[10.0]]), small),
        Case((x, weight, bias, A, B, 8), torch.tensor([[15.0]]), f"{small}, with a bias of 5,"),
        Case((x, weight, bias, A, B, 7), torch.tensor([[13.5]]), f"{small[:-1]}7, with a bias of 5,"),
        _random((4,), 6, 5, 3, alpha=7),
        _random((2,), 3, 4, 1, alpha=2),
        _random((2, 4), 6, 5, 3, alpha=7),
        _random((2, 4), 5, 7, 2, alpha=3, bias=False),
        _random((), 6, 5, 3, alpha=7),
    ]
    compare(student, cases, WRONG, tolerance=5e-6)

    x, weight, bias, A, B, alpha = cases[3].arguments
    with ProductSeen(A, B, weight) as products:
        student(x.clone(), weight.clone(), bias.clone(), A.clone(), B.clone(), alpha)
    if products.seen:
        raise Incorrect(
            "the numbers are right, but your code builds B A, here 5 × 6, as large as the weight: "
            "let x go through A first, then what comes out through B"
        )


def _random(batch: tuple[int, ...], inputs: int, outputs: int, rank: int, alpha: int, bias: bool = True) -> Case:
    generator = torch.Generator().manual_seed(inputs)
    sizes = [(*batch, inputs), (outputs, inputs), (rank, inputs), (outputs, rank), (outputs,)]
    x, weight, A, B, b = (torch.randn(size, generator=generator) for size in sizes)
    exact = x.double() @ (weight.double() + alpha / rank * B.double() @ A.double()).T + (b if bias else 0)
    words = f"a random x of shape {(*batch, inputs)}, {outputs} outputs, rank {rank} and alpha {alpha}"
    return Case((x, weight, b if bias else None, A, B, alpha), exact.float(), f"{words}{'' if bias else ', no bias'},")
