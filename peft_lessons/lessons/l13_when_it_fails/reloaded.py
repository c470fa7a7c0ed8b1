"""May it take the place of the run?

The run is over, its model still in memory, its adapter in a file, and from the file somebody has made a second model.
Write `survived(trained, loaded, ids)`: True if the second one may replace the first. Both are called as `model(ids)`
and give logits, (batch, tokens, vocabulary).

Two things must hold. They compute the same: no logit differs by more than a ten-thousandth of the largest. And the
loaded adapter does something: with it switched off, by `adapters_disabled(loaded)`, some logit differs by more than
that. Take the models as they are, without `eval()`: so they would be used. You are tried on pairs that you have not
seen.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from peft_lessons.adapters import inject
from peft_lessons.classroom.exercises.cases import Case, compare
from peft_lessons.methods.lora import LoRAConfig

TITLE = "Is this the adapter that I trained?"
MINUTES = 7

STARTER = '''\
from peft_lessons import adapters_disabled


def survived(trained, loaded, ids):
    """True if `loaded` may replace `trained`"""
    return ...
'''

HINTS = [
    "Ask both for their logits under `torch.no_grad()`, then the loaded one once more inside "
    "`with adapters_disabled(loaded):`.",
    "Same means: `(a - b).abs().max() <= 1e-4 * a.abs().max()`. What does that say where there is a NaN?",
    "Return both answers joined by `and`: trained and loaded agree; loaded, on and off, do not.",
]

SOLUTION = '''\
from peft_lessons import adapters_disabled


def survived(trained, loaded, ids):
    """True if `loaded` may replace `trained`"""
    with torch.no_grad():
        before, after = trained(ids), loaded(ids)
        with adapters_disabled(loaded):
            off = loaded(ids)
    rounding = 1e-4 * before.abs().max()
    return bool((before - after).abs().max() <= rounding and (after - off).abs().max() > rounding)
'''

RIGHT = {
    "allclose": """\
from peft_lessons import adapters_disabled


@torch.no_grad()
def survived(trained, loaded, ids):
    wanted = trained(ids)
    atol = float(1e-4 * wanted.abs().max())
    same = torch.allclose(loaded(ids), wanted, rtol=0, atol=atol)
    with adapters_disabled(loaded):
        base = torch.allclose(loaded(ids), wanted, rtol=0, atol=atol)
    return same and not base
""",
    "token by token": """\
from peft_lessons import adapters_disabled


def survived(trained, loaded, ids):
    a, b = trained(ids).detach().flatten().tolist(), loaded(ids).detach().flatten().tolist()
    with adapters_disabled(loaded):
        c = loaded(ids).detach().flatten().tolist()
    largest = max(map(abs, a))
    alike = all(abs(x - y) <= 1e-4 * largest for x, y in zip(a, b))
    return alike and any(abs(x - y) > 1e-4 * largest for x, y in zip(b, c))
""",
    "a function for same": """\
from peft_lessons import adapters_disabled


def survived(trained, loaded, ids):
    def same(one, other):
        return bool(torch.max(torch.abs(one - other)) / torch.max(torch.abs(one)) <= 1e-4)

    with torch.inference_mode():
        logits = loaded(ids)
        with adapters_disabled(loaded):
            untouched = loaded(ids)
        return same(trained(ids), logits) and not same(logits, untouched)
""",
}

_WRONG = """\
from peft_lessons import adapters_disabled


def survived(trained, loaded, ids):
    {first}
    with torch.no_grad():
        before, after = trained(ids), loaded(ids)
        with adapters_disabled(loaded):
            off = loaded(ids)
    rounding = {rounding}
    return bool({result})
"""
_RIGHT = {
    "first": "pass",
    "rounding": "1e-4 * before.abs().max()",
    "result": "(before - after).abs().max() <= rounding and (after - off).abs().max() > rounding",
}


def _wrong(**changes: str) -> str:
    return _WRONG.format(**_RIGHT | changes)


WRONG = {
    "takes all": (_wrong(result="True"), "you take every pair"),
    "takes none": (_wrong(result="False"), "you take no pair, not even a sound one"),
    "asks only whether it does something": (
        _wrong(result="(after - off).abs().max() > rounding"),
        "the loaded adapter does something, but not what the trained one does",
    ),
    "asks only whether both agree": (
        _wrong(result="(before - after).abs().max() <= rounding"),
        "both agree, and neither adapter changes anything",
    ),
    "wants the last bit": (
        _wrong(result="torch.equal(before, after) and not torch.equal(after, off)"),
        "the same numbers in another order of adding differ in their last bits; that is no fault",
    ),
    "compares the likeliest tokens": (
        _wrong(result="torch.equal(before.argmax(-1), after.argmax(-1)) and not torch.equal(after, off)"),
        "the likeliest tokens agree and the logits do not: on other ids the tokens will differ, too",
    ),
    "compares means": (
        _wrong(result="(before - after).mean().abs() <= rounding and (after - off).abs().max() > rounding"),
        "differences of both signs cancel in a mean: take the largest",
    ),
    "forgets the signs": (
        _wrong(result="(before - after).max() <= rounding and (after - off).abs().max() > rounding"),
        "a difference may be negative: take its size",
    ),
    "lets a NaN pass": (
        _wrong(result="not (before - after).abs().max() > rounding and (after - off).abs().max() != 0"),
        "a NaN is neither larger nor smaller than anything, so “not larger” lets it pass",
    ),
    "takes an absolute bound": (
        _wrong(rounding="1e-4"),
        "the bound is a ten-thousandth of the largest logit, whatever its size",
    ),
    "switches to eval": (
        _wrong(first="trained.eval(), loaded.eval()"),
        "the loaded model was left with dropout on; take the models as they are",
    ),
}


def check(student: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    ids = torch.randint(11, (2, 5))
    trained, other = _model(), _model(seed=1)
    cases = [
        _case(trained, deepcopy(trained), ids, True, "a model and its copy"),
        _case(trained, _reordered(trained), ids, True, "a model and one that adds in another order"),
        _case(trained, _times(trained, 0.5), ids, False, "an adapter at half its strength"),
        _case(trained, _times(trained, 0.0), ids, False, "an adapter that was never loaded"),
        _case(_times(trained, 0.0), _times(trained, 0.0), ids, False, "two adapters that change nothing"),
        _case(trained, _with_base_of(trained, other), ids, False, "the same adapter on another base"),
        _case(trained, _transposed(trained), ids, False, "an adapter whose factors are transposed"),
        _case(trained, _switched_off(trained), ids, False, "an adapter that is switched off"),
        _case(trained, deepcopy(trained).train(), ids, False, "a model with dropout on"),
        _case(trained, _times(trained, 1.002), ids, False, "an adapter at 1.002 times its strength"),
        _case(trained, _times(trained, float("nan")), ids, False, "an adapter of NaN"),
        _case(_scaled(trained, 1e3), _scaled(_reordered(trained), 1e3), ids, True, "logits of a thousand"),
        _case(_scaled(trained, 1e-4), _scaled(deepcopy(trained), 1e-4), ids, True, "logits below a thousandth"),
        _case(_scaled(trained, 1e-4), _scaled(_times(trained, 0.5), 1e-4), ids, False, "logits below a thousandth"),
        _case(trained, _moved(trained, 0.02), ids, False, "logits that are all a little larger"),
        _case(trained, _moved(trained, -0.02), ids, False, "logits that are all a little smaller"),
    ]
    cases.append(_case(_exact(10.0), _exact(10.0, off_by=5e-4), ids, True, "an adapter that makes the largest logit"))
    below, above = 0.993e-4, 1.007e-4  # of the largest logit: on both sides of the bound
    for sign in (1, -1):
        strong, weak = _exact(effect=sign * above), _exact(effect=sign * below)
        cases += [
            _case(strong, deepcopy(strong), ids, True, "an adapter that moves one logit by more than rounding"),
            _case(weak, deepcopy(weak), ids, False, "an adapter that moves one logit by rounding"),
            _case(_exact(0.5), _exact(0.5, off_by=sign * below), ids, True, "one logit that is off by rounding"),
            _case(_exact(0.5), _exact(0.5, off_by=sign * above), ids, False, "one logit that is off by more"),
        ]
    compare(student, cases, WRONG)


def _case(trained: nn.Module, loaded: nn.Module, ids: torch.Tensor, survived: bool, words: str) -> Case:
    return Case((trained, loaded, ids), survived, words)


def _model(seed: int = 0) -> nn.Module:
    """Build a language model of four layers, one of them with a LoRA that is not zero."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(11, 16), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 11))
    inject(model, LoRAConfig(rank=5, alpha=10, dropout=0.2, targets=("1",)))
    layer: Any = model[1]
    nn.init.normal_(layer.lora_B, std=0.5)
    return model.eval()


def _changed(model: nn.Module, change: Callable[[Any], None]) -> nn.Module:
    """Copy a model, and apply `change` to the copy."""
    copy = deepcopy(model)
    with torch.no_grad():
        change(copy)
    return copy


def _times(model: nn.Module, factor: float) -> nn.Module:
    return _changed(model, lambda copy: copy[1].lora_B.mul_(factor))


def _reordered(model: nn.Module) -> nn.Module:
    """Return the same adapter with its directions in another order, so that sums round differently."""
    order = [3, 0, 4, 2, 1]

    def change(copy: Any) -> None:
        copy[1].lora_A.copy_(copy[1].lora_A[order])
        copy[1].lora_B.copy_(copy[1].lora_B[:, order])

    return _changed(model, change)


def _transposed(model: nn.Module) -> nn.Module:
    def change(copy: Any) -> None:
        A, B = copy[1].lora_A.clone(), copy[1].lora_B.clone()
        copy[1].lora_A.copy_(B.T)
        copy[1].lora_B.copy_(A.T)

    return _changed(model, change)


def _with_base_of(model: nn.Module, other: Any) -> nn.Module:
    return _changed(model, lambda copy: copy[1].base_layer.weight.copy_(other[1].base_layer.weight))


def _switched_off(model: nn.Module) -> nn.Module:
    def change(copy: Any) -> None:
        copy[1].enabled = False

    return _changed(model, change)


def _scaled(model: nn.Module, factor: float) -> nn.Module:
    def change(copy: Any) -> None:
        copy[3].weight.mul_(factor)
        copy[3].bias.mul_(factor)

    return _changed(model, change)


def _moved(model: nn.Module, by: float) -> nn.Module:
    return _changed(model, lambda copy: copy[3].bias.add_(by))


def _exact(effect: float, off_by: float = 0.0) -> nn.Module:
    """Build a model whose largest logit is −8 and whose adapter moves another by `effect` of it; a third is off."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 7))
    inject(model, LoRAConfig(rank=1, alpha=1, targets=("1",)))
    embedding: Any = model[0]
    layer: Any = model[1]
    with torch.no_grad():
        embedding.weight[:, 0] = 1
        layer.base_layer.weight[:3] = 0
        layer.base_layer.bias[:3] = torch.tensor([-8.0, 0.5, 0.5 + 8 * off_by])
        layer.lora_A.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
        layer.lora_B.zero_()
        layer.lora_B[1] = 8 * effect
    return model.eval()
