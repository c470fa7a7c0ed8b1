"""An adapter that Hugging Face peft can read.

Write `for_peft(layers, rank, alpha)`. The dictionary `layers` maps the name of each adapted module, such as
"model.layers.0.self_attn.q_proj", to its pair (A, B), of shapes (rank, in) and (out, rank). Return two dictionaries:
the settings that go into `adapter_config.json` ("peft_type", "r", "lora_alpha" and "target_modules", a list of the last
parts of the names, each once) and the tensors that go into `adapter_model.safetensors`. There a module's A is called
"base_model.model.NAME.lora_A.weight", and its B ends with lora_B.weight.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from peft_lessons.adapters import inject
from peft_lessons.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from peft_lessons.classroom.exercises import Incorrect, describe
from peft_lessons.classroom.exercises.cases import Case, compare
from peft_lessons.methods.lora import LoRAConfig, LoRALinear

TITLE = "Two files for peft"
MINUTES = 8

STARTER = '''\
def for_peft(layers, rank, alpha):
    """(settings, tensors): what adapter_config.json and adapter_model.safetensors hold"""
    return ..., ...
'''

HINTS = [
    'The settings are four entries: {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": […]}.',
    'The last part of a name is `name.split(".")[-1]`; each target is listed once.',
    'For each `name, (A, B)`: `tensors[f"base_model.model.{name}.lora_A.weight"] = A`, as it is, and the same for B.',
]

SOLUTION = '''\
def for_peft(layers, rank, alpha):
    """(settings, tensors): what adapter_config.json and adapter_model.safetensors hold"""
    targets = sorted({name.split(".")[-1] for name in layers})
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": targets}
    tensors = {}
    for name, (A, B) in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A
        tensors[f"base_model.model.{name}.lora_B.weight"] = B
    return settings, tensors
'''

RIGHT = {
    "comprehensions and a set": """\
def for_peft(layers, rank, alpha):
    tensors = {
        f"base_model.model.{name}.lora_{letter}.weight": tensor
        for name, pair in layers.items()
        for letter, tensor in zip("AB", pair)
    }
    targets = list({name.rsplit(".", 1)[-1] for name in layers})
    return dict(peft_type="LORA", r=rank, lora_alpha=alpha, target_modules=targets), tensors
""",
    "a loop that asks what is there": """\
def for_peft(layers, rank, alpha):
    targets, tensors = [], {}
    for name in layers:
        last = name[name.rfind(".") + 1 :]
        if last not in targets:
            targets.append(last)
        begin = "base_model.model." + name
        tensors[begin + ".lora_A.weight"] = layers[name][0].detach().clone()
        tensors[begin + ".lora_B.weight"] = layers[name][1].detach().clone()
    settings = {"r": int(rank), "lora_alpha": float(alpha), "target_modules": tuple(targets), "peft_type": "LORA"}
    return [settings, tensors]
""",
    "more settings": """\
def for_peft(layers, rank, alpha):
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", "lora_dropout": 0.0}
    settings["target_modules"] = list(dict.fromkeys(name.split(".")[-1] for name in layers))
    tensors = {}
    for name, (A, B) in layers.items():
        tensors.update({".".join(("base_model", "model", name, k, "weight")): v.contiguous()
                        for k, v in {"lora_A": A, "lora_B": B}.items()})
    return settings, tensors
""",
}

_WRONG = """\
def for_peft(layers, rank, alpha):
    targets = {targets}
    settings = {{"peft_type": "{kind}", "r": {rank}, "lora_alpha": {alpha}, "target_modules": {listed}}}
    tensors = {{}}
    for name, (A, B) in layers.items():
        tensors[f"{prefix}{{{name}}}.lora_A{end}"] = {A}
        tensors[f"{prefix}{{{name}}}.lora_B{end}"] = {B}
    return {result}
"""
_RIGHT = {
    "targets": 'sorted({name.split(".")[-1] for name in layers})',
    "kind": "LORA",
    "rank": "rank",
    "alpha": "alpha",
    "listed": "targets",
    "prefix": "base_model.model.",
    "name": "name",
    "end": ".weight",
    "A": "A",
    "B": "B",
    "result": "settings, tensors",
}
WRONG = {
    "swaps the two": (
        _WRONG.format(**_RIGHT | {"result": "tensors, settings"}),
        "the two have changed places: settings first, then tensors",
    ),
    "leaves out the prefix": (_WRONG.format(**_RIGHT | {"prefix": ""}), "each name begins with base_model.model."),
    "leaves out half of the prefix": (
        _WRONG.format(**_RIGHT | {"prefix": "base_model."}),
        "each name begins with base_model.model., both parts of it",
    ),
    "leaves out the end": (_WRONG.format(**_RIGHT | {"end": ""}), "each name ends with .weight"),
    "keys by the last part": (
        _WRONG.format(**_RIGHT | {"name": "name.split('.')[-1]"}),
        "the whole name of the module stands in each key, or two layers get the same",
    ),
    "swaps A and B": (
        _WRONG.format(**_RIGHT | {"A": "B", "B": "A"}),
        "A and B have changed places: lora_A.weight is (rank, in)",
    ),
    "transposes": (
        _WRONG.format(**_RIGHT | {"A": "A.T", "B": "B.T"}),
        "store A and B as they are, without a transpose",
    ),
    "stores A twice": (_WRONG.format(**_RIGHT | {"B": "A"}), "lora_B.weight is B"),
    "folds the scaling into B": (
        _WRONG.format(**_RIGHT | {"B": "alpha / rank * B"}),
        "store B as it is, peft scales by α/r itself",
    ),
    "folds the scaling into A": (
        _WRONG.format(**_RIGHT | {"A": "alpha / rank * A"}),
        "store A as it is, peft scales by α/r itself",
    ),
    "changes the dtype": (
        _WRONG.format(**_RIGHT | {"A": "A.float()", "B": "B.float()"}),
        "store A and B in the dtype that they have",
    ),
    "stores α/r as α": (
        _WRONG.format(**_RIGHT | {"alpha": "alpha / rank"}),
        "lora_alpha is alpha itself; peft divides by r",
    ),
    "swaps rank and alpha": (
        _WRONG.format(**_RIGHT | {"rank": "alpha", "alpha": "rank"}),
        "r and lora_alpha have changed places",
    ),
    "calls it LoRA": (_WRONG.format(**_RIGHT | {"kind": "LoRA"}), 'peft_type is "LORA", in capitals'),
    "names whole modules": (
        _WRONG.format(**_RIGHT | {"targets": "sorted(layers)"}),
        "target_modules are the last parts of the names",
    ),
    "takes the first parts": (
        _WRONG.format(**_RIGHT | {"targets": 'sorted({name.split(".")[0] for name in layers})'}),
        "those are the first parts of the names; the last ones are wanted",
    ),
    "names a target for each layer": (
        _WRONG.format(**_RIGHT | {"targets": 'sorted(name.split(".")[-1] for name in layers)'}),
        "each last part is listed once, though several layers have it",
    ),
    "names them as one text": (_WRONG.format(**_RIGHT | {"listed": '",".join(targets)'}), "a list, not one text"),
    "names them as a set": (_WRONG.format(**_RIGHT | {"listed": "set(targets)"}), "a list: JSON knows no sets"),
    "empties the dictionary": (
        "def for_peft(layers, rank, alpha):\n"
        "    targets, tensors = set(), {}\n"
        "    while layers:\n"
        "        name, (A, B) = layers.popitem()\n"
        '        targets.add(name.split(".")[-1])\n'
        '        tensors[f"base_model.model.{name}.lora_A.weight"] = A\n'
        '        tensors[f"base_model.model.{name}.lora_B.weight"] = B\n'
        '    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": sorted(targets)}\n'
        "    return settings, tensors\n",
        "`layers`",
    ),
}


def check(student: Callable[..., Any]) -> None:
    one, two = {"block.q_proj": (8, 5)}, {"0.q_proj": (8, 5), "0.up_proj": (8, 12), "1.q_proj": (8, 5)}
    cases = [
        _case(one, 2, 6, "one layer, block.q_proj"),
        _case(two, 3, 3, "the layers 0.q_proj, 0.up_proj and 1.q_proj"),
        _case(two, 2, 7, "three layers in bfloat16", torch.bfloat16),
        _case({"q_proj": (5, 8), "lm_head": (8, 3)}, 1, 4, "the layers q_proj and lm_head"),
    ]
    compare(student, cases, WRONG, ("the settings", "the tensors"), _read)
    _load(student)


def _case(layers: dict[str, tuple[int, int]], rank: int, alpha: int, words: str, dtype: Any = torch.float32) -> Case:
    generator = torch.Generator().manual_seed(0)
    pairs = {
        name: tuple(torch.randn(s, generator=generator).to(dtype) for s in ((rank, inputs), (outputs, rank)))
        for name, (inputs, outputs) in layers.items()
    }
    targets = sorted({name.split(".")[-1] for name in layers})
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": targets}
    tensors = {
        f"base_model.model.{name}.lora_{letter}.weight": tensor
        for name, pair in pairs.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }
    return Case((pairs, rank, alpha), (settings, tensors), f"{words}, rank {rank} and alpha {alpha}")


def _read(returned: Any, case: Case) -> Any:
    """The four settings asked for, whatever else there is, with the targets in order; and the tensors."""
    if not isinstance(returned, tuple | list) or len(returned) != 2 or not all(isinstance(p, dict) for p in returned):
        raise Incorrect(f"you return {describe(returned)}, it should be two dictionaries")
    settings, tensors = returned
    asked = case.expected[0] if "peft_type" in settings else settings
    settings = {key: value for key, value in settings.items() if key in asked}
    targets = settings.get("target_modules")
    if isinstance(targets, str):
        raise Incorrect(f"target_modules is {targets!r}; it should be a list, not one text")
    if isinstance(targets, set | frozenset | dict):
        raise Incorrect(f"target_modules is {describe(targets)}; it should be a list: JSON knows no sets")
    if isinstance(targets, list | tuple):
        settings["target_modules"] = sorted(map(str, targets))
    return settings, tensors


def _load(student: Callable[..., Any]) -> None:
    """The files, read again, make the same model."""
    config = LoRAConfig(rank=2, alpha=6, targets=("q_proj", "up_proj"))
    model = inject(_model(), config)
    adapted = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}
    for layer in adapted.values():
        nn.init.normal_(layer.lora_B)
    pairs = {name: (layer.lora_A.detach().clone(), layer.lora_B.detach().clone()) for name, layer in adapted.items()}
    settings, tensors = student(pairs, 2, 6)
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, config, folder)  # what else a file may have, peft fills in
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder) / WEIGHTS_FILE)
        path = Path(folder) / CONFIG_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        again = load_adapter(_model(), folder)
    x = torch.randn(3, 8)
    for name in adapted:
        if not torch.equal(again.get_submodule(name)(x), model.get_submodule(name)(x)):
            raise Incorrect(f"loaded again, {name} computes something else")


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"block": nn.ModuleDict({"q_proj": nn.Linear(8, 5), "up_proj": nn.Linear(8, 12)})})
