"""Repair the sketch of a LoRA layer.

Write `RepairedLoRALinear(linear, rank, alpha)`, a module around a pretrained `nn.Linear` that

- wraps that very layer and copies nothing,
- freezes it, its bias included,
- has `lora_A`, an `nn.Parameter` of shape (rank, in), random, and `lora_B`, (out, rank), zero,
- computes W₀x + b + (alpha / rank) · B A x.
"""

from typing import Any

import torch
from torch import nn

from peft_lessons.classroom.exercises import Incorrect, NotAttempted, require_tensor

TITLE = "Repair the LoRA sketch"
MINUTES = 8

STARTER = """\
class RepairedLoRALinear(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear = ...  # your code: wrap, freeze, make lora_A and lora_B

    def forward(self, x):
        return ...  # your code: W₀x + b + (alpha / rank) B A x
"""

HINTS = [
    "`self.linear = linear` wraps. `requires_grad_(False)` on a module freezes all of its parameters at once.",
    "`nn.Parameter(torch.randn(rank, linear.in_features))` is a random A. Which of the two must start at zero?",
    "x @ A.T @ B.T is B A x for a whole batch. Keep `alpha / rank` in `__init__` and multiply with it in `forward`.",
]

SOLUTION = """\
class RepairedLoRALinear(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.scaling = alpha / rank
        self.lora_A = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x):
        return self.linear(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)
"""

_WRONG = """\
class RepairedLoRALinear(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        {wrap}
        self.scaling = {scaling}
        self.lora_A = nn.Parameter({A})
        self.lora_B = nn.Parameter({B})

    def forward(self, x):
        {base}
        return base + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)
"""
_RIGHT = {
    "wrap": "self.linear = linear.requires_grad_(False)",
    "scaling": "alpha / rank",
    "A": "torch.randn(rank, linear.in_features)",
    "B": "torch.zeros(linear.out_features, rank)",
    "base": "base = self.linear(x)",
}

WRONG = {
    "makes a new layer": (
        _WRONG.format(
            **_RIGHT
            | {"wrap": "self.linear = nn.Linear(linear.in_features, linear.out_features).requires_grad_(False)"}
        ),
        "the pretrained weight is not in your layer",
    ),
    "freezes nothing": (_WRONG.format(**_RIGHT | {"wrap": "self.linear = linear"}), "still trains"),
    "freezes the weight but not the bias": (
        _WRONG.format(**_RIGHT | {"wrap": "self.linear = linear; linear.weight.requires_grad_(False)"}),
        "`linear.bias` still trains",
    ),
    "starts both at random": (
        _WRONG.format(**_RIGHT | {"B": "torch.randn(linear.out_features, rank)"}),
        "before any training",
    ),
    "starts both at zero": (
        _WRONG.format(**_RIGHT | {"A": "torch.zeros(rank, linear.in_features)"}),
        "neither ever gets a gradient",
    ),
    "forgets the bias": (_WRONG.format(**_RIGHT | {"base": "base = x @ self.linear.weight.T"}), "is the bias missing?"),
    "computes the base without gradients": (
        _WRONG.format(**_RIGHT | {"base": "with torch.no_grad(): base = self.linear(x)"}),
        "no gradient comes back through the base",
    ),
    "forgets the scaling": (_WRONG.format(**_RIGHT | {"scaling": "1"}), "without the factor"),
    "multiplies by the rank": (_WRONG.format(**_RIGHT | {"scaling": "alpha * rank"}), "times as large"),
}


def check(student: type[nn.Module]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 2)
    before = linear.weight.detach().clone()
    x = torch.randn(4, 3)
    expected = linear(x).detach()
    layer = student(linear, 2, 6)
    if getattr(layer, "linear", None) is ...:
        raise NotAttempted
    if not isinstance(layer, nn.Module):
        raise Incorrect(f"`{type(layer).__name__}` is no `nn.Module`: write `class …(nn.Module)`")
    A = _parameter(layer, "lora_A", (2, 3))
    B = _parameter(layer, "lora_B", (2, 2))
    if not any(parameter is linear.weight for parameter in layer.parameters()):
        raise Incorrect("the pretrained weight is not in your layer: wrap the `linear` that you are given")
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad != (parameter is A or parameter is B):
            raise Incorrect(f"`{name}` {'still trains' if parameter.requires_grad else 'does not train'}")

    y = require_tensor(layer(x), (4, 2), torch.float32, "the output")
    if not torch.allclose(y, expected, atol=1e-6):
        off = (y - expected).abs().max().item()
        if torch.allclose(y + linear.bias, expected, atol=1e-6):
            raise Incorrect(
                f"without its update your layer differs from `linear(x)` by up to {off:.3g}: is the bias missing?"
            )
        raise Incorrect(f"before any training the output is off by up to {off:.3g}; ΔW must be zero at the start")
    if not A.any() and not B.any():
        raise Incorrect("A and B both start at zero: then neither ever gets a gradient; make A random")
    if B.any():
        raise Incorrect("B is not zero at the start; by the paper A is random and B is zero")

    with torch.no_grad():
        B.copy_(torch.tensor([[1.0, 0.0], [2.0, -1.0]]))
    x.requires_grad_()
    y = require_tensor(layer(x), (4, 2), torch.float32, "the output")
    update, wanted = y - expected, 3 * (x @ A.T @ B.T)
    if not torch.allclose(update, wanted, atol=1e-5):
        factor = (update * wanted).sum() / wanted.square().sum()
        if torch.allclose(update, factor * wanted, atol=1e-4):
            what = "without the factor alpha / rank" if abs(3 * factor - 1) < 1e-4 else f"{factor:.3g} times as large"
            raise Incorrect(f"with rank 2 and alpha 6 the update is {what}; it should be 6 / 2 = 3 times B A x")
        raise Incorrect("with rank 2, alpha 6 and a B that is not zero, the update is not 3 times B A x")
    if not y.requires_grad:
        raise Incorrect("no gradient comes back from the output at all, so nothing can train: remove `no_grad`")
    gradients = torch.autograd.grad(y.sum(), (x, A, B), allow_unused=True)
    for gradient, name in zip(gradients[1:], ("lora_A", "lora_B"), strict=True):
        if gradient is None:
            raise Incorrect(f"no gradient reaches `{name}`, so it cannot train: use it without `detach` or `data`")
    through_base, through_update = (torch.ones(4, 2) @ weight for weight in (linear.weight, 3 * B @ A))
    at_input = torch.zeros(4, 3) if gradients[0] is None else gradients[0]
    if torch.allclose(at_input, through_update, atol=1e-5):
        raise Incorrect(
            "no gradient comes back through the base to the input: freeze the parameters, don't use `no_grad`"
        )
    if not torch.allclose(at_input, through_base + through_update, atol=1e-5):
        raise Incorrect("the gradient at the input is not that of W₀x + b + 3 · B A x: is something detached?")
    if not torch.equal(linear.weight, before):
        raise Incorrect("the pretrained weight was changed")


def _parameter(layer: nn.Module, name: str, shape: tuple[int, int]) -> Any:
    parameter = getattr(layer, name, None)
    if isinstance(parameter, nn.Module):
        raise Incorrect(f"`{name}` is a `{type(parameter).__name__}`; make it an `nn.Parameter` of shape {shape}")
    if not isinstance(parameter, nn.Parameter):
        raise Incorrect(f"there is no `nn.Parameter` named `{name}`: the optimizer would not find it")
    if tuple(parameter.shape) != shape:
        raise Incorrect(
            f"for a layer of 3 inputs and 2 outputs at rank 2, `{name}` is {tuple(parameter.shape)}, not {shape}"
        )
    return parameter
