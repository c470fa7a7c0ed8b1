"""Repair the sketch of a LoRA layer.

Write `RepairedLoRALinear(linear, rank, alpha)`, a module around a pretrained `nn.Linear` that

- wraps that very layer and copies nothing,
- freezes it, its bias included,
- has `lora_A`, an `nn.Parameter` of shape (rank, in), random, and `lora_B`, (out, rank), zero,
- computes W₀x + b + (alpha / rank) · B A x.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.classroom.exercises import Incorrect, describe, require_tensor

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

RIGHT = {
    "F.linear, and parameters frozen one by one": """\
class RepairedLoRALinear(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        for parameter in linear.parameters():
            parameter.requires_grad = False
        self.linear, self.rank, self.alpha = linear, rank, alpha
        self.lora_A = nn.Parameter(torch.empty(rank, linear.weight.shape[1]))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def forward(self, x):
        F = torch.nn.functional
        return F.linear(F.linear(x, self.lora_A), self.lora_B) * (self.alpha / self.rank) + self.linear(x)
""",
    "einsum, under another name": """\
class RepairedLoRALinear(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.base_layer = linear
        self.base_layer.weight.requires_grad = False
        if self.base_layer.bias is not None:
            self.base_layer.bias.requires_grad = False
        self.register_parameter("lora_A", nn.Parameter(torch.rand(rank, linear.in_features) - 0.5))
        self.register_parameter("lora_B", nn.Parameter(torch.zeros((linear.out_features, rank))))
        self.register_buffer("scaling", torch.tensor(alpha / rank))

    def forward(self, x):
        return torch.einsum("...i,ri,or->...o", self.scaling * x, self.lora_A, self.lora_B) + self.base_layer(x)
""",
    "a loop over the rank, and two parameters of one layer": """\
class RepairedLoRALinear(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.weight, self.bias = linear.requires_grad_(False).weight, linear.bias
        self.lora_B = nn.Parameter(torch.zeros(len(self.weight), rank))
        self.lora_A = nn.Parameter(torch.normal(0, 0.02, (rank, linear.in_features)))
        self.alpha = alpha

    def forward(self, x):
        y = torch.nn.functional.linear(x, self.weight, self.bias)
        for a, b in zip(self.lora_A, self.lora_B.T):
            y = y + self.alpha / len(self.lora_A) * (x @ a)[..., None] * b
        return y
""",
}

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
        {update}
        return {result}
"""
_RIGHT = {
    "wrap": "self.linear = linear.requires_grad_(False)",
    "scaling": "alpha / rank",
    "A": "torch.randn(rank, linear.in_features)",
    "B": "torch.zeros(linear.out_features, rank)",
    "base": "base = self.linear(x)",
    "update": "update = self.scaling * (x @ self.lora_A.T @ self.lora_B.T)",
    "result": "base + update",
}


def _mistake(**changed: str) -> str:
    return _WRONG.format(**_RIGHT | changed)


WRONG = {
    "makes a new layer": (
        _mistake(wrap="self.linear = nn.Linear(linear.in_features, linear.out_features).requires_grad_(False)"),
        "the pretrained weight is not in your layer",
    ),
    "copies the layer": (
        _mistake(wrap="import copy; self.linear = copy.deepcopy(linear).requires_grad_(False)"),
        "holds a copy of the pretrained weight, not the weight itself",
    ),
    "leaves the bias behind": (
        _mistake(
            wrap="self.weight = linear.requires_grad_(False).weight",
            base="base = torch.nn.functional.linear(x, self.weight)",
        ),
        "the pretrained bias is not in your layer",
    ),
    "freezes nothing": (_mistake(wrap="self.linear = linear"), "`linear.weight` still trains"),
    "freezes the weight but not the bias": (
        _mistake(wrap="self.linear = linear; linear.weight.requires_grad_(False)"),
        "`linear.bias` still trains",
    ),
    "sets an attribute of the layer": (
        _mistake(wrap="self.linear = linear; self.linear.requires_grad = False"),
        "sets an attribute of the module, which nothing reads",
    ),
    "takes eval for frozen": (_mistake(wrap="self.linear = linear.eval()"), "`eval()` freezes nothing"),
    "expects a bias": (
        _mistake(wrap="self.linear = linear; linear.weight.requires_grad_(False); linear.bias.requires_grad_(False)"),
        "a layer may have no bias: `linear.bias` is then None",
    ),
    "trains the scaling": (_mistake(scaling="nn.Parameter(torch.tensor(alpha / rank))"), "`scaling` trains, too"),
    "freezes A": (
        _mistake(A="torch.randn(rank, linear.in_features), requires_grad=False"),
        "`lora_A` does not train",
    ),
    "zeroes the weight": (
        _mistake(wrap="self.linear = linear.requires_grad_(False); nn.init.zeros_(self.linear.weight)"),
        "changed in place",
    ),
    "starts both at random": (
        _mistake(B="torch.randn(linear.out_features, rank)"),
        "before any training",
    ),
    "starts B at random and A at zero": (
        _mistake(A="torch.zeros(rank, linear.in_features)", B="torch.randn(linear.out_features, rank)"),
        "B is not zero at the start",
    ),
    "starts both at zero": (_mistake(A="torch.zeros(rank, linear.in_features)"), "neither ever gets a gradient"),
    "starts A at one": (_mistake(A="torch.ones(rank, linear.in_features)"), "the same number everywhere"),
    "starts A with what lay in memory": (_mistake(A="torch.empty(rank, linear.in_features)"), "`torch.empty`"),
    "starts A alike in every layer": (
        _mistake(A="torch.arange(1.0, 1 + rank * linear.in_features).view(rank, -1)"),
        "two layers start with the same A",
    ),
    "returns the update alone": (_mistake(result="update"), "W₀x + b is missing"),
    "returns the base alone": (_mistake(result="base"), "the update is missing"),
    "forgets the bias": (_mistake(base="base = x @ self.linear.weight.T"), "is the bias missing?"),
    "counts the bias twice": (
        _mistake(result="base + update + (0 if self.linear.bias is None else self.linear.bias)"),
        "the bias is counted twice",
    ),
    "scales the base": (
        _mistake(base="base = self.scaling * self.linear(x)"),
        "W₀x + b comes back 3 times as large",
    ),
    "computes the base without gradients": (
        _mistake(base="with torch.no_grad(): base = self.linear(x)"),
        "no gradient comes back through the base",
    ),
    "forgets the scaling": (_mistake(scaling="1"), "without the factor alpha / rank"),
    "forgets to divide by the rank": (_mistake(scaling="alpha"), "alpha is not divided by the rank"),
    "multiplies by the rank": (_mistake(scaling="alpha * rank"), "4 times as large"),
    "turns the scaling upside down": (_mistake(scaling="rank / alpha"), "upside down"),
    "cuts off the scaling": (_mistake(scaling="alpha // rank"), "`//` cuts off the fraction"),
    "divides by the inputs": (_mistake(scaling="alpha / linear.in_features"), "the number of inputs"),
    "scales twice": (_mistake(result="base + self.scaling * update"), "alpha / rank stands there twice"),
    "subtracts": (_mistake(result="base - update"), "subtracted"),
    "keeps the A of the start": (
        _mistake(
            scaling="alpha / rank; self.first = torch.randn(rank, linear.in_features)",
            A="self.first.clone()",
            update="update = self.scaling * (x @ self.first.T @ self.lora_B.T)",
        ),
        "does not depend on `lora_A` as it is now",
    ),
    "works for batches alone": (
        _mistake(
            update='update = self.scaling * torch.einsum("bi,ri,or->bo", x, self.lora_A, self.lora_B)',
        ),
        "x has the shape (2, 4, 3)",
    ),
}


def check(student: Callable[..., Any]) -> None:
    _try(student, inputs=3, outputs=2, rank=2, alpha=6, bias=True)
    for inputs, outputs, rank, alpha, bias in ((2, 5, 2, 7, False), (6, 4, 1, 2, True)):
        try:
            _try(student, inputs, outputs, rank, alpha, bias)
        except Incorrect as reason:
            layer = f"a layer of {inputs} inputs and {outputs} outputs{'' if bias else ', without bias,'}"
            raise Incorrect(f"for {layer} with rank {rank} and alpha {alpha}: {reason}") from None
        except AttributeError as error:
            if not bias and "NoneType" in str(error):
                error.add_note("a layer may have no bias: `linear.bias` is then None")
            raise
    torch.manual_seed(1)
    first = student(nn.Linear(3, 2), 2, 6).lora_A
    torch.manual_seed(2)
    if torch.equal(first, student(nn.Linear(3, 2), 2, 6).lora_A):
        raise Incorrect("two layers start with the same A: draw it at random each time")


def _try(student: Callable[..., Any], inputs: int, outputs: int, rank: int, alpha: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, bias=bias)
    weight, x = linear.weight.detach().clone(), torch.randn(2, 4, inputs)
    base = linear(x).detach()
    layer = student(linear, rank, alpha)
    if not isinstance(layer, nn.Module):
        raise Incorrect(f"`{type(layer).__name__}` is no `nn.Module`: write `class …(nn.Module)`")
    A, B = _parameter(layer, "lora_A", (rank, inputs), linear), _parameter(layer, "lora_B", (outputs, rank), linear)
    _wraps(layer, linear)
    _freezes(layer, linear, A, B)
    _starts(layer, linear, A, B, x, base)
    with torch.no_grad():
        A.copy_(torch.randn(rank, inputs))
        B.copy_(torch.randn(outputs, rank))
    _updates(layer, A, B, x, base, alpha, rank)
    _trains(layer, linear, A, B, x.requires_grad_(), alpha / rank)
    for shape in ((4, inputs), (inputs,)):
        _forward(layer, torch.ones(shape), outputs)
    if not torch.equal(linear.weight, weight):
        raise Incorrect("the pretrained weight was changed in place, by `forward`")


def _parameter(layer: nn.Module, name: str, shape: tuple[int, int], linear: nn.Linear) -> Any:
    parameter = getattr(layer, name, None)
    if isinstance(parameter, nn.Module):
        raise Incorrect(f"`{name}` is a `{type(parameter).__name__}`; make it an `nn.Parameter` of shape {shape}")
    if not isinstance(parameter, nn.Parameter):
        kind = (
            f"`{name}` is {describe(parameter)}, no `nn.Parameter`" if hasattr(layer, name) else f"there is no `{name}`"
        )
        raise Incorrect(f"{kind}: make it an `nn.Parameter`, or the optimizer does not find it")
    if tuple(parameter.shape) != shape:
        sizes = f"{linear.in_features} inputs and {linear.out_features} outputs"
        rank = min(shape) if name == "lora_A" else shape[1]
        raise Incorrect(f"for a layer of {sizes} at rank {rank}, `{name}` is {tuple(parameter.shape)}, not {shape}")
    if parameter.dtype != linear.weight.dtype:
        raise Incorrect(f"`{name}` is {parameter.dtype}, it should be {linear.weight.dtype} like the weight")
    return parameter


def _wraps(layer: nn.Module, linear: nn.Linear) -> None:
    for name, pretrained in linear.named_parameters():
        if any(parameter is pretrained for parameter in layer.parameters()):
            continue
        held = [*layer.parameters(), *layer.buffers()]
        if any(tensor.shape == pretrained.shape and torch.equal(tensor, pretrained) for tensor in held):
            raise Incorrect(
                f"your layer holds a copy of the pretrained {name}, not the {name} itself: "
                "`deepcopy` and `clone` take the memory twice; wrap the `linear` that you are given"
            )
        raise Incorrect(f"the pretrained {name} is not in your layer: wrap the `linear` that you are given")


def _freezes(layer: nn.Module, linear: nn.Linear, A: nn.Parameter, B: nn.Parameter) -> None:
    for name, parameter in layer.named_parameters():
        if parameter is A or parameter is B:
            if not parameter.requires_grad:
                raise Incorrect(f"`{name}` does not train: its `requires_grad` is false")
        elif parameter.requires_grad:
            if not any(parameter is pretrained for pretrained in linear.parameters()):
                raise Incorrect(f"`{name}` trains, too; only lora_A and lora_B should")
            why = ""
            if vars(linear).get("requires_grad") is False:
                why = ": `linear.requires_grad = False` sets an attribute of the module, which nothing reads"
            elif not linear.training:
                why = ": `eval()` freezes nothing, it changes what dropout and the like do"
            raise Incorrect(f"`{name}` still trains{why}")


def _forward(layer: nn.Module, x: Tensor, outputs: int) -> Tensor:
    try:
        y = layer(x)
    except Exception as error:
        error.add_note(f"x has the shape {tuple(x.shape)} here: (…, in), with any number of dimensions")
        raise
    return require_tensor(y, (*x.shape[:-1], outputs), torch.float32, f"for an x of shape {tuple(x.shape)} the output")


def _starts(layer: nn.Module, linear: nn.Linear, A: Tensor, B: Tensor, x: Tensor, base: Tensor) -> None:
    for name, tensor in (("lora_A", A), ("lora_B", B)):
        if not tensor.isfinite().all():
            raise Incorrect(f"`{name}` holds NaN: `torch.empty` is whatever lay in memory; fill it")
    y = _forward(layer, x, linear.out_features)
    if A.any() and B.any():
        off = (y - base).abs().max().item()
        raise Incorrect(f"before any training the output is off by up to {off:.3g}; ΔW must be zero at the start")
    if not _close(y, base):
        bias = 0 if linear.bias is None else linear.bias
        factor = (y * base).sum() / base.square().sum()
        why = "the output should be `linear(x)`"
        if not y.any():
            why = "the output is 0: W₀x + b is missing, only the update comes back"
        elif _close(y + bias, base):
            why = "is the bias missing?"
        elif _close(y - bias, base):
            why = "the bias is counted twice"
        elif _close(y, factor * base):
            why = f"W₀x + b comes back {factor:.3g} times as large; only the update is scaled"
        off = (y - base).abs().max().item()
        raise Incorrect(f"with B = 0 your layer differs from `linear(x)` by up to {off:.3g}: {why}")
    if not A.any() and not B.any():
        raise Incorrect("A and B both start at zero: then neither ever gets a gradient; make A random")
    if B.any():
        raise Incorrect("B is not zero at the start; by the paper A is random and B is zero")
    if (A.flatten() == A[0, 0]).all():
        raise Incorrect(f"A starts with the same number everywhere, {A[0, 0]:.3g}; make it random")


def _updates(layer: nn.Module, A: Tensor, B: Tensor, x: Tensor, base: Tensor, alpha: int, rank: int) -> None:
    update = _forward(layer, x, len(B)) - base
    wanted = alpha / rank * (x @ A.T @ B.T)
    if _close(update, wanted):
        return
    case = f"with rank {rank}, alpha {alpha} and a B that is not zero"
    if not update.any():
        raise Incorrect(f"{case} the output is W₀x + b alone: the update is missing")
    factor = alpha / rank * ((update * wanted).sum() / wanted.square().sum()).item()
    if not _close(update, factor * rank / alpha * wanted):
        with torch.no_grad():
            A.mul_(2)
            moved = _forward(layer, x, len(B)) - base
        if torch.equal(moved, update):
            raise Incorrect(f"{case} the output does not depend on `lora_A` as it is now")
        raise Incorrect(f"{case} the update is not {alpha / rank:g} times B A x")
    reasons = {
        1: "that is without the factor alpha / rank",
        alpha: "alpha is not divided by the rank",
        alpha // rank: "`//` cuts off the fraction of alpha / rank",
        rank / alpha: "the scaling is upside down",
        (alpha / rank) ** 2: "alpha / rank stands there twice",
        alpha / A.shape[1]: "alpha is divided by the number of inputs",
        alpha / B.shape[0]: "alpha is divided by the number of outputs",
        -alpha / rank: "it is subtracted",
    }
    larger = f"that is {factor * rank / alpha:.3g} times as large"
    why = next((reason for value, reason in reasons.items() if math.isclose(factor, value, rel_tol=1e-4)), larger)
    raise Incorrect(f"{case} the update is {factor:.3g} times B A x, it should be {alpha} / {rank} times: {why}")


def _trains(layer: nn.Module, linear: nn.Linear, A: Tensor, B: Tensor, x: Tensor, scaling: float) -> None:
    y = _forward(layer, x, len(B))
    if not y.requires_grad:
        raise Incorrect("no gradient comes back from the output at all, so nothing can train: remove `no_grad`")
    gradients = torch.autograd.grad(y.sum(), (x, A, B), allow_unused=True)
    for gradient, name in zip(gradients[1:], ("lora_A", "lora_B"), strict=True):
        if gradient is None:
            raise Incorrect(f"no gradient reaches `{name}`, so it cannot train: use it without `detach` or `data`")
    ones = torch.ones(2, 4, len(B))
    through_base, through_update = ones @ linear.weight, scaling * ones @ B @ A
    at_input = torch.zeros_like(x) if gradients[0] is None else gradients[0]
    if _close(at_input, through_update):
        raise Incorrect(
            "no gradient comes back through the base to the input: freeze the parameters, don't use `no_grad`"
        )
    if not _close(at_input, through_base + through_update):
        raise Incorrect(
            "the gradient at the input is not that of W₀x + b + (alpha / rank) · B A x: is something detached?"
        )


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)
