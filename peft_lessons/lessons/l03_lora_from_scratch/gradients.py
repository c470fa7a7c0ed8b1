"""The gradients of LoRA, by hand.

Let G = ∂L/∂W, shape (out, in), be the gradient that full fine-tuning would use, taken at W = W₀ + s B A. Write
`lora_gradients(G, A, B, scaling)`, which returns (∂L/∂A, ∂L/∂B), of the shapes of A and B.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises import Incorrect, NotAttempted, require_tensor

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

_WRONG = """\
def lora_gradients(G, A, B, scaling):
    return {result}
"""

WRONG = {
    "swaps the two": (_WRONG.format(result="scaling * G @ A.T, scaling * B.T @ G"), "in the other order"),
    "forgets the scaling": (_WRONG.format(result="B.T @ G, G @ A.T"), "the scaling is missing"),
    "has the sign of a step": (_WRONG.format(result="-scaling * B.T @ G, -scaling * G @ A.T"), "the opposite sign"),
    "takes A for B at the start": (
        _WRONG.format(result="scaling * torch.ones_like(B).T @ G, scaling * G @ A.T"),
        "must be 0",
    ),
}


def check(student: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    W0, A = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (2, 4)))
    x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 4), (5, 3)))
    starts = {"with B = 0, as at the start,": torch.zeros(3, 2, dtype=torch.float64)}
    starts["with a B that is not zero"] = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    for case, B in starts.items():
        W, left, right = (W0 + 2.5 * B @ A).requires_grad_(), A.clone().requires_grad_(), B.clone().requires_grad_()
        (G,) = torch.autograd.grad((x @ W.T - y).square().sum(), W)
        loss = (x @ (W0 + 2.5 * right @ left).T - y).square().sum()
        expected = torch.autograd.grad(loss, (left, right))
        _compare(student(G, A.clone(), B.clone(), 2.5), expected, f"{case} and a scaling of 2.5")


def _compare(returned: Any, expected: tuple[torch.Tensor, ...], case: str) -> None:
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise Incorrect(f"{case}: return two tensors, the gradient of A and the gradient of B")
    if returned[0] is ... or returned[1] is ...:
        raise NotAttempted
    shapes = [tuple(getattr(part, "shape", ())) for part in returned]
    if shapes == [(3, 2), (2, 4)]:
        raise Incorrect(f"{case}: the gradients come in the other order; A's is first, of shape (rank, in) = (2, 4)")
    for part, exact, name in zip(returned, expected, ("A", "B"), strict=True):
        gradient = require_tensor(part, tuple(exact.shape), torch.float64, f"the gradient of {name}")
        if torch.allclose(gradient, exact, atol=1e-9):
            continue
        if not exact.any():
            raise Incorrect(f"{case}: the gradient of {name} must be 0, since it contains Bᵀ as a factor; yours is not")
        if torch.allclose(gradient, -exact, atol=1e-9):
            raise Incorrect(
                f"{case}: the gradient of {name} has the opposite sign; it points uphill, the step goes down"
            )
        if torch.allclose(2.5 * gradient, exact, atol=1e-9):
            raise Incorrect(f"{case}: the gradient of {name} is 2.5 times too small: the scaling is missing")
        off = (gradient - exact).abs().max().item()
        raise Incorrect(f"{case}: the gradient of {name} differs from autograd's by up to {off:.3g}")
