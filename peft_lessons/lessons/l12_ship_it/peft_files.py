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
from torch import Tensor, nn

from peft_lessons.adapters import inject
from peft_lessons.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from peft_lessons.classroom.exercises import Incorrect, NotAttempted, describe
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

_WRONG = """\
def for_peft(layers, rank, alpha):
    targets = sorted({{name.split(".")[-1] for name in layers}})
    settings = {{"peft_type": "LORA", "r": rank, "lora_alpha": {alpha}, "target_modules": {targets}}}
    tensors = {{}}
    for name, (A, B) in layers.items():
        tensors[f"{prefix}{{name}}.lora_A.weight"] = {A}
        tensors[f"{prefix}{{name}}.lora_B.weight"] = {B}
    return settings, tensors
"""
_RIGHT = {"alpha": "alpha", "targets": "targets", "prefix": "base_model.model.", "A": "A", "B": "B"}
WRONG = {
    "leaves out the prefix": (_WRONG.format(**_RIGHT | {"prefix": ""}), "base_model.model."),
    "swaps A and B": (_WRONG.format(**_RIGHT | {"A": "B", "B": "A"}), "lora_A.weight has the shape"),
    "transposes": (_WRONG.format(**_RIGHT | {"A": "A.T", "B": "B.T"}), "lora_A.weight has the shape"),
    "folds the scaling into B": (_WRONG.format(**_RIGHT | {"B": "alpha / rank * B"}), "B as it is"),
    "stores α/r as α": (_WRONG.format(**_RIGHT | {"alpha": "alpha / rank"}), "lora_alpha"),
    "names whole modules as one text": (_WRONG.format(**_RIGHT | {"targets": '",".join(targets)'}), "a list"),
}


def check(student: Callable[..., Any]) -> None:
    _compare(student, ("q_proj",), rank=2, alpha=6)
    _compare(student, ("q_proj", "up_proj"), rank=3, alpha=3)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"block": nn.ModuleDict({"q_proj": nn.Linear(8, 5), "up_proj": nn.Linear(8, 12)})})


def _compare(student: Callable[..., Any], targets: tuple[str, ...], rank: int, alpha: float) -> None:
    config = LoRAConfig(rank=rank, alpha=alpha, targets=targets)
    model = inject(_model(), config)
    adapted = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}
    for layer in adapted.values():
        nn.init.normal_(layer.lora_B)
    pairs = {name: (layer.lora_A.detach().clone(), layer.lora_B.detach().clone()) for name, layer in adapted.items()}
    returned = student(dict(pairs), rank, alpha)
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise Incorrect(f"you return {describe(returned)}, it should be two dictionaries")
    settings, tensors = returned
    if settings is ... or tensors is ...:
        raise NotAttempted
    if not isinstance(settings, dict) or not isinstance(tensors, dict):
        raise Incorrect(f"you return a {type(settings).__name__} and a {type(tensors).__name__}, not two dictionaries")
    wanted = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha}
    for key, value in wanted.items():
        if settings.get(key) != value:
            raise Incorrect(
                f"with rank {rank} and alpha {alpha} the setting {key} is {settings.get(key)!r}, not {value!r}"
            )
    found = settings.get("target_modules")
    if not isinstance(found, list | tuple) or sorted(found) != sorted(targets):
        raise Incorrect(f"target_modules is {found!r}; it should be a list of the last parts: {sorted(targets)}")
    expected = {
        f"base_model.model.{name}.lora_{letter}.weight": tensor
        for name, pair in pairs.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }
    _tensors(tensors, expected)
    _loads(settings, tensors, model, config)


def _tensors(tensors: dict[Any, Any], expected: dict[str, Tensor]) -> None:
    if set(tensors) != set(expected):
        raise Incorrect(f"the names are {describe(sorted(map(str, tensors)))}, the first should be {min(expected)}")
    for name, tensor in expected.items():
        if not isinstance(tensors[name], Tensor) or tensors[name].shape != tensor.shape:
            shape = tuple(getattr(tensors[name], "shape", ()))
            raise Incorrect(f"{name.split('.', 3)[-1]} has the shape {shape}, it should be {tuple(tensor.shape)}")
        if not torch.equal(tensors[name], tensor):
            raise Incorrect(
                f"{name} is not the tensor that was given: store A and B as it is, peft scales by α/r itself"
            )


def _loads(settings: dict[str, Any], tensors: dict[str, Tensor], model: nn.Module, config: LoRAConfig) -> None:
    """The files, read again, make the same model."""
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, config, folder)  # what else a file may have, peft fills in
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder) / WEIGHTS_FILE)
        path = Path(folder) / CONFIG_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        again = load_adapter(_model(), folder)
    x = torch.randn(3, 8)
    for name in ("block.q_proj", "block.up_proj"):
        if not torch.equal(again.get_submodule(name)(x), model.get_submodule(name)(x)):
            raise Incorrect(f"loaded again, {name} computes something else")
