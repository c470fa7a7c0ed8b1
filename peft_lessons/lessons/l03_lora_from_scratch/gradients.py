"""The gradients of LoRA, by hand.

Let G = ∂L/∂W, shape (out, in), be the gradient that full fine-tuning would use, taken at W = W₀ + s B A. Write
`lora_gradients(G, A, B, scaling)`, which returns (∂L/∂A, ∂L/∂B), of the shapes of A and B.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "LoRA's gradients by hand"
MINUTES = 8

STARTER = '''\
def lora_gradients(G, A, B, scaling):
    """(∂L/∂A, ∂L/∂B), of shapes (rank, in) and (out, rank)"""
    return ..., ...
'''

HINTS = [
    "W = W₀ + s B A. A small change of B by dB changes W by s · dB · A. How does L change then?",
    "Shapes nearly decide it: ∂L/∂B is (out, rank); G is (out, in) and A is (rank, in). Only one product fits.",
    "∂L/∂B = s · G Aᵀ, and in the same way ∂L/∂A = s · Bᵀ G.",
]

SOLUTION = '''\
def lora_gradients(G, A, B, scaling):
    """(∂L/∂A, ∂L/∂B), of shapes (rank, in) and (out, rank)"""
    return scaling * B.T @ G, scaling * G @ A.T
'''

RIGHT = {
    "autograd": """\
def lora_gradients(G, A, B, scaling):
    A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
    (G * (scaling * B @ A)).sum().backward()
    return A.grad, B.grad
""",
    "einsum, in a list": """\
def lora_gradients(G, A, B, scaling):
    return [
        torch.einsum("or,oi->ri", B, G) * scaling,
        torch.einsum("oi,ri->or", G, A) * scaling,
    ]
""",
    "loops over rows": """\
def lora_gradients(G, A, B, scaling):
    left, right = torch.zeros_like(A), torch.zeros_like(B)
    for o in range(G.shape[0]):
        for r in range(A.shape[0]):
            left[r] += scaling * B[o, r] * G[o]
            right[o, r] = scaling * torch.dot(G[o], A[r])
    return left, right
""",
    "NumPy": """\
def lora_gradients(G, A, B, scaling):
    g, a, b = G.numpy(), A.numpy(), B.numpy()
    return torch.from_numpy(scaling * (b.T @ g)), torch.from_numpy(scaling * (g @ a.T))
""",
    "transposes of products": """\
def lora_gradients(G, A, B, scaling):
    G = G * scaling
    return (G.mT @ B).mT, torch.nn.functional.linear(G, A)
""",
}

_WRONG = """\
def lora_gradients(G, A, B, scaling):
    return {result}
"""

WRONG = {
    "swaps the two": (
        _WRONG.format(result="scaling * G @ A.T, scaling * B.T @ G"),
        "the gradients come in the other order: A's is first",
    ),
    "forgets the scaling": (_WRONG.format(result="B.T @ G, G @ A.T"), "the scaling is missing"),
    "scales A's gradient alone": (
        _WRONG.format(result="scaling * B.T @ G, G @ A.T"),
        "the scaling is missing in the gradient of B",
    ),
    "scales B's gradient alone": (
        _WRONG.format(result="B.T @ G, scaling * G @ A.T"),
        "the scaling is missing in the gradient of A",
    ),
    "scales twice": (
        _WRONG.format(result="scaling**2 * B.T @ G, scaling**2 * G @ A.T"),
        "the scaling stands in W once, so it stands in each gradient once",
    ),
    "divides by the scaling": (
        _WRONG.format(result="B.T @ G / scaling, G @ A.T / scaling"),
        "multiply by the scaling, don't divide",
    ),
    "has the sign of a step": (
        _WRONG.format(result="-scaling * B.T @ G, -scaling * G @ A.T"),
        "the opposite sign: a gradient points uphill, the step goes down",
    ),
    "takes A for B at the start": (
        _WRONG.format(result="scaling * torch.ones_like(B).T @ G, scaling * G @ A.T"),
        "with B = 0 the gradient of A must be 0, since Bᵀ is a factor of it",
    ),
    "keeps A from training": (
        _WRONG.format(result="torch.zeros_like(A), scaling * G @ A.T"),
        "the gradient of A is 0 only while B is 0",
    ),
    "multiplies by the other matrix once more": (
        _WRONG.format(result="scaling * B.T @ G @ A.T @ A, scaling * G @ A.T"),
        "the gradient of A has two factors, B's and G",
    ),
    "transposes": (
        _WRONG.format(result="(scaling * B.T @ G).T, (scaling * G @ A.T).T"),
        "both are transposed: a gradient has the shape of its parameter",
    ),
    "averages": (
        _WRONG.format(result="scaling * B.T @ G / G.shape[0], scaling * G @ A.T / G.shape[1]"),
        "those are averages over the rows or columns of G; a matrix product sums",
    ),
}


def check(student: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for outputs, inputs, rank, scaling in ((3, 4, 2, 2.5), (4, 3, 1, 0.5), (5, 7, 5, 2)):
        G, A = (torch.randn(size, inputs, generator=generator, dtype=torch.float64) for size in (outputs, rank))
        B = torch.randn(outputs, rank, generator=generator, dtype=torch.float64)
        for start, right in (("B = 0, as at the start", torch.zeros_like(B)), ("a B that is not zero", B)):
            words = f"a G of {outputs} × {inputs}, rank {rank}, a scaling of {scaling} and {start},"
            cases.append(Case((G, A, right, scaling), _by_autograd(G, A, right, scaling), words))
    compare(student, cases, WRONG, parts=("the gradient of A", "the gradient of B"))


def _by_autograd(G: Tensor, A: Tensor, B: Tensor, scaling: float) -> tuple[Tensor, ...]:
    """Of a loss whose gradient at W is G: the sum of the products of their entries."""
    left, right = A.clone().requires_grad_(), B.clone().requires_grad_()
    return torch.autograd.grad((G * (scaling * right @ left)).sum(), (left, right))
