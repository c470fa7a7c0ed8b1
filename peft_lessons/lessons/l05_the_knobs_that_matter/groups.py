"""Two learning rates, as LoRA+ has them.

Write `groups(model, learning_rate, ratio)`. Return a list of two parameter groups for `torch.optim.AdamW`, two
dictionaries with "params" and "lr": first all `lora_B` of the model with `ratio * learning_rate`, then all other
parameters that train, with `learning_rate`. Frozen parameters belong to neither.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from peft_lessons.adapters import inject
from peft_lessons.classroom.exercises import Incorrect, NotAttempted, describe
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

_WRONG = """\
def groups(model, learning_rate, ratio):
    fast, others = [], []
    for name, parameter in model.named_parameters():
        if {trains}:
            (fast if name.endswith("{fast}") else others).append(parameter)
    return [{{"params": fast, "lr": {rate}}}, {{"params": {others}, "lr": learning_rate}}]
"""
_RIGHT = {
    "trains": "parameter.requires_grad",
    "fast": "lora_B",
    "rate": "ratio * learning_rate",
    "others": "others",
}
WRONG = {
    "speeds up A": (_WRONG.format(**_RIGHT | {"fast": "lora_A"}), "lora_A"),
    "divides by the ratio": (_WRONG.format(**_RIGHT | {"rate": "learning_rate / ratio"}), "rate of the first group"),
    "sets the rate to the ratio": (_WRONG.format(**_RIGHT | {"rate": "ratio"}), "times"),
    "takes the frozen parameters, too": (_WRONG.format(**_RIGHT | {"trains": "True"}), "frozen"),
    "knows the frozen ones by their name": (
        _WRONG.format(**_RIGHT | {"trains": "'base_layer' not in name"}),
        "has no adapter",
    ),
    "leaves out what is neither A nor B": (
        _WRONG.format(**_RIGHT | {"others": "[p for n, p in model.named_parameters() if n.endswith('lora_A')]"}),
        "neither",
    ),
    "puts B in both groups": (
        _WRONG.format(**_RIGHT | {"others": "[p for p in model.parameters() if p.requires_grad]"}),
        "two groups",
    ),
}


def check(student: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 2))  # the last one stays as it is, frozen
    model = inject(layers, LoRAConfig(rank=1, alpha=2, targets=("0", "1")))
    model.register_parameter("extra", nn.Parameter(torch.zeros(2)))
    found = student(model, 0.01, 8)
    if found is ...:
        raise NotAttempted
    if not isinstance(found, list | tuple) or len(found) != 2 or not all(isinstance(group, dict) for group in found):
        raise Incorrect(f"return a list of two dictionaries, you return {describe(found)}")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    listed = []
    for group in found:
        if missing := {"params", "lr"} - group.keys():
            raise Incorrect(f"a group lacks {', '.join(sorted(missing))}")
        listed.append([names.get(id(parameter), "something foreign") for parameter in group["params"]])
    fast, others = listed
    if strangers := [name for name in fast + others if name in frozen]:
        why = "its layer has no adapter" if "base_layer" not in strangers[0] else "it lies under an adapter"
        raise Incorrect(f"{strangers[0]} is frozen and belongs to no group ({why}): ask for `requires_grad`")
    if wrong := [name for name in fast if not name.endswith("lora_B")]:
        raise Incorrect(f"the first group holds {wrong[0]}; it should hold the lora_B of every layer and nothing else")
    if both := sorted({*fast} & {*others}):
        raise Incorrect(f"{both[0]} is in two groups")
    if len(fast) != 2:
        raise Incorrect(f"the first group holds {len(fast)} parameters; the model has two lora_B")
    if "extra" not in others:
        raise Incorrect("a parameter that trains and is neither lora_A nor lora_B belongs to the second group")
    if len(others) != 3:
        raise Incorrect(f"the second group holds {len(others)} parameters, it should hold 3: two lora_A and `extra`")
    for group, name, rate in zip(found, ("first", "second"), (0.08, 0.01), strict=True):
        if abs(float(group["lr"]) - rate) > 1e-9:
            raise Incorrect(
                f"for a learning rate of 0.01 and a ratio of 8 the rate of the {name} group is "
                f"{describe(group['lr'])}, it should be {rate}: "
                + ("ratio times the rate" if name == "first" else "the rate itself")
            )
