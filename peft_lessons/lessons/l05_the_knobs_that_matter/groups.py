"""Two learning rates, as LoRA+ has them.

Write `groups(model, learning_rate, ratio)`. Return a list of two parameter groups for `torch.optim.AdamW`, two
dictionaries with "params" and "lr": first all `lora_B` of the model with `ratio * learning_rate`, then all other
parameters that train, with `learning_rate`. Frozen parameters belong to neither.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.adapters import inject
from peft_lessons.classroom.exercises import Incorrect, describe, number_of
from peft_lessons.classroom.exercises.cases import Case, compare
from peft_lessons.methods.lora import LoRAConfig

TITLE = "Parameter groups for LoRA+"
MINUTES = 8

STARTER = '''\
def groups(model, learning_rate, ratio):
    """Two parameter groups: every lora_B at ratio · learning_rate, then the rest of what trains"""
    return ...
'''

HINTS = [
    "`model.named_parameters()` yields (name, parameter). An adapter's parameters end with `lora_A` and `lora_B`.",
    "Collect two lists in one loop: skip what has `requires_grad` false, then ask `name.endswith('lora_B')`.",
    'The result is `[{"params": fast, "lr": ratio * learning_rate}, {"params": others, "lr": learning_rate}]`.',
]

SOLUTION = '''\
def groups(model, learning_rate, ratio):
    """Two parameter groups: every lora_B at ratio · learning_rate, then the rest of what trains"""
    fast, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (fast if name.endswith("lora_B") else others).append(parameter)
    return [{"params": fast, "lr": ratio * learning_rate}, {"params": others, "lr": learning_rate}]
'''

RIGHT = {
    "by module": """\
def groups(model, learning_rate, ratio):
    fast = [m.lora_B for m in model.modules() if hasattr(m, "lora_B") and m.lora_B.requires_grad]
    known = {id(p) for p in fast}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    return [dict(params=fast, lr=learning_rate * ratio), dict(params=others, lr=learning_rate)]
""",
    "last part of the name, generators in a tuple": """\
def groups(model, learning_rate, ratio):
    trains = {name: p for name, p in model.named_parameters() if p.requires_grad}
    fast = (p for n, p in trains.items() if n.split(".")[-1] == "lora_B")
    others = (p for n, p in trains.items() if n.split(".")[-1] != "lora_B")
    return {"lr": torch.tensor(ratio * learning_rate), "params": fast}, {"lr": learning_rate, "params": others}
""",
    "a group for each of two names": """\
def groups(model, learning_rate, ratio):
    result = [{"params": [], "lr": learning_rate * float(ratio)}, {"params": [], "lr": learning_rate}]
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        result["lora_B" not in name]["params"].append(p)
    return result
""",
    "sets and more settings": """\
def groups(model, learning_rate, ratio):
    every = {p for p in model.parameters() if p.requires_grad}
    fast = {p for n, p in model.named_parameters() if n.endswith(".lora_B") and p.requires_grad}
    settings = {"weight_decay": 0.0}
    return [settings | {"params": list(fast), "lr": ratio * learning_rate},
            settings | {"params": list(every - fast), "lr": learning_rate}]
""",
}

_WRONG = """\
def groups(model, learning_rate, ratio):
    fast, others = [], []
    for name, parameter in model.named_parameters():
        if {trains}:
            (fast if {fast} else others).append({what})
    return [{{"params": fast, "lr": {rate}}}, {{"params": {others}, "lr": {base}}}]
"""
_RIGHT = {
    "trains": "parameter.requires_grad",
    "fast": 'name.endswith("lora_B")',
    "what": "parameter",
    "rate": "ratio * learning_rate",
    "others": "others",
    "base": "learning_rate",
}
WRONG = {
    "speeds up A": (
        _WRONG.format(**_RIGHT | {"fast": 'name.endswith("lora_A")'}),
        "the first group is for lora_B, and holds lora_A",
    ),
    "speeds up both": (
        _WRONG.format(**_RIGHT | {"fast": '"lora_" in name'}),
        "lora_A belongs to the second group",
    ),
    "speeds up all but A": (
        _WRONG.format(**_RIGHT | {"fast": 'not name.endswith("lora_A")'}),
        "the first group holds lora_B and nothing else",
    ),
    "looks for a B": (
        _WRONG.format(**_RIGHT | {"fast": '"B" in name'}),
        "a letter is not enough: here a layer is called B",
    ),
    "finds no lora_B": (
        _WRONG.format(**_RIGHT | {"fast": 'name == "lora_B"'}),
        "a parameter's name begins with its module's, as in 0.lora_B",
    ),
    "swaps the groups": (
        "def groups(model, learning_rate, ratio):\n"
        "    trains = [(n, p) for n, p in model.named_parameters() if p.requires_grad]\n"
        '    fast, others = ([p for n, p in trains if n.endswith("lora_B") == b] for b in (True, False))\n'
        '    return [{"params": others, "lr": learning_rate}, {"params": fast, "lr": ratio * learning_rate}]\n',
        "the two groups have changed places: first all lora_B",
    ),
    "swaps the rates": (
        _WRONG.format(**_RIGHT | {"rate": "learning_rate", "base": "ratio * learning_rate"}),
        "the two rates have changed places: lora_B gets the higher one",
    ),
    "divides by the ratio": (
        _WRONG.format(**_RIGHT | {"rate": "learning_rate / ratio"}),
        "the first rate is ratio times the learning rate, not divided by it",
    ),
    "slows the others": (
        _WRONG.format(**_RIGHT | {"rate": "learning_rate", "base": "learning_rate / ratio"}),
        "the second group keeps the learning rate; the first gets ratio times as much",
    ),
    "speeds up everything": (
        _WRONG.format(**_RIGHT | {"base": "ratio * learning_rate"}),
        "the second group's rate is the learning rate itself",
    ),
    "sets the rate to the ratio": (
        _WRONG.format(**_RIGHT | {"rate": "ratio"}),
        "the first rate is ratio times the learning rate",
    ),
    "adds the ratio": (
        _WRONG.format(**_RIGHT | {"rate": "ratio + learning_rate"}),
        "multiply by the ratio, don't add it",
    ),
    "uses one rate": (
        _WRONG.format(**_RIGHT | {"rate": "learning_rate"}),
        "both have one rate; lora_B gets ratio times as much",
    ),
    "takes the frozen parameters, too": (
        _WRONG.format(**_RIGHT | {"trains": "True"}),
        "frozen ones belong to neither group: ask for `requires_grad`",
    ),
    "takes the frozen parameters alone": (
        _WRONG.format(**_RIGHT | {"trains": "not parameter.requires_grad"}),
        "those are the frozen ones",
    ),
    "knows the frozen ones by their name": (
        _WRONG.format(**_RIGHT | {"trains": "'base_layer' not in name"}),
        "a layer that has no adapter is frozen, too: ask for `requires_grad`, not for a name",
    ),
    "takes every lora_B": (
        _WRONG.format(**_RIGHT | {"trains": "parameter.requires_grad or name.endswith('lora_B')"}),
        "a lora_B may be frozen, too; then it belongs to neither group",
    ),
    "leaves out what is neither A nor B": (
        _WRONG.format(**_RIGHT | {"others": "[p for n, p in model.named_parameters() if n.endswith('lora_A')]"}),
        "what trains and is neither lora_A nor lora_B belongs to the second group",
    ),
    "puts B in both groups": (
        _WRONG.format(**_RIGHT | {"others": "[p for p in model.parameters() if p.requires_grad]"}),
        "lora_B is in both groups: to the second belongs only what is not in the first",
    ),
    "gives names": (
        _WRONG.format(**_RIGHT | {"what": "name"}),
        "holds names; an optimizer needs the parameters themselves",
    ),
    "gives pairs": (
        _WRONG.format(**_RIGHT | {"what": "(name, parameter)"}),
        "holds pairs (name, parameter)",
    ),
    "gives one tensor alone": (
        "def groups(model, learning_rate, ratio):\n"
        "    fast = [p for n, p in model.named_parameters() if n.endswith('lora_B')]\n"
        '    return [{"params": fast[0], "lr": ratio * learning_rate}, {"params": [], "lr": learning_rate}]\n',
        '"params" is a list, even of one parameter',
    ),
    "asks whether a list holds a tensor": (
        "def groups(model, learning_rate, ratio):\n"
        "    fast = [p for n, p in model.named_parameters() if n.endswith('lora_B')]\n"
        "    others = [p for p in model.parameters() if p not in fast]\n"
        '    return [{"params": fast, "lr": ratio * learning_rate}, {"params": others, "lr": learning_rate}]\n',
        "`in` and `==` compare the values of tensors: ask for names, or compare with `is`",
    ),
}


def check(student: Callable[..., Any]) -> None:
    with torch.random.fork_rng(devices=[]):
        plain = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 2))  # the last one stays as it is, frozen
        plain = inject(plain, LoRAConfig(rank=1, alpha=2, targets=("0", "1")))
        plain.register_parameter("extra", nn.Parameter(torch.zeros(2)))
        lettered = nn.ModuleDict({"A": nn.Linear(3, 3), "B": nn.Linear(3, 3)})
        lettered = inject(lettered, LoRAConfig(rank=1, alpha=2, targets=("A", "B")))
    lettered.get_parameter("A.lora_B").requires_grad_(False)
    layers = "a model with adapters on layers 0 and 1, a frozen layer 2 and a parameter `extra` that trains"
    cases = [
        Case((plain, 0.01, 8), _expected(plain, 0.01, 8), f"{layers}, a learning rate of 0.01 and a ratio of 8"),
        Case(
            (lettered, 0.5, 3),
            _expected(lettered, 0.5, 3),
            "a model with adapters on layers A and B, of which A.lora_B is frozen, a rate of 0.5 and a ratio of 3",
        ),
    ]
    parts = "the first group's parameters", "the first rate", "the second group's parameters", "the second rate"
    compare(student, cases, WRONG, parts, _read)


def _expected(model: nn.Module, learning_rate: float, ratio: float) -> tuple[Any, ...]:
    trains = sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    fast = [name for name in trains if name.endswith(".lora_B")]
    return fast, learning_rate * ratio, [name for name in trains if name not in fast], learning_rate


def _read(found: Any, case: Case) -> tuple[Any, ...]:
    """The names of the first group's parameters, its rate, and the same of the second."""
    if not isinstance(found, list | tuple) or len(found) != 2 or not all(isinstance(group, dict) for group in found):
        raise Incorrect(f"return a list of two dictionaries, you return {describe(found)}")
    names = {id(parameter): name for name, parameter in case.arguments[0].named_parameters()}
    read: list[Any] = []
    for group, which in zip(found, ("first", "second"), strict=True):
        if missing := [key for key in ("params", "lr") if key not in group]:
            raise Incorrect(
                f"the {which} group lacks {missing[0]!r}; it has {', '.join(map(repr, group)) or 'nothing'}"
            )
        if isinstance(group["params"], Tensor):
            raise Incorrect(f'"params" of the {which} group is one tensor; "params" is a list, even of one parameter')
        held = list(group["params"])
        if any(isinstance(parameter, str) for parameter in held):
            raise Incorrect(f"the {which} group holds names; an optimizer needs the parameters themselves")
        if any(isinstance(parameter, tuple | list) for parameter in held):
            raise Incorrect(f"the {which} group holds pairs (name, parameter); it should hold the parameters alone")
        if number_of(group["lr"]) is None:
            raise Incorrect(f"the rate of the {which} group is {describe(group['lr'])}, it should be a number")
        read += [sorted(names.get(id(parameter), "something foreign") for parameter in held), number_of(group["lr"])]
    return tuple(read)
