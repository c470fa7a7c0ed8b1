"""Adapters on disk, in Hugging Face peft's layout. The only file that knows its names.

A folder holds `adapter_config.json` and `adapter_model.safetensors`; a tensor is called
`base_model.model.<module>.lora_A.weight`, shape (rank, in), or `…lora_B.weight`, shape (out, rank).
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from peft_lessons.adapters import (
    AdapterConfig,
    Model,
    adapter_state_dict,
    inject,
    load_adapter_state_dict,
    named_adapters,
    remove_adapters,
)
from peft_lessons.methods.lora import LoRAConfig

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

# The settings of peft that are read: which values are possible, and how to say it.
READ: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (lambda value: type(value) is int, "a whole number"),
    "lora_alpha": (lambda value: type(value) in (int, float), "a number"),
    "lora_dropout": (lambda value: type(value) in (int, float), "a number"),
    "use_rslora": (lambda value: type(value) is bool, "true or false"),
    "target_modules": (
        lambda value: type(value) is list and all(type(name) is str for name in value),
        "a list of names",
    ),
}

# Settings that say where an adapter comes from or how it was made, not what it computes.
IGNORED = {
    "peft_type",
    "peft_version",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "auto_mapping",
    "runtime_config",
    "megatron_config",
    "megatron_core",
    "qalora_group_size",
}

# Any other setting may change what the adapter computes and is refused, unless it is off or has one of these values.
# Starts such as "pissa", "olora" or "loftq" rewrite the base weights; these do not.
OFF: tuple[object, ...] = (None, False, {}, [])
NEUTRAL: dict[str, tuple[object, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian", "orthogonal", "eva"),
}


def save_adapter(model: nn.Module, config: AdapterConfig, folder: str | Path, base_model: str | None = None) -> Path:
    """Write the adapters of `model` to `folder` (made when absent), atomically; returns the folder.

    `base_model` is the name of the base's checkpoint, for whoever loads the folder later.
    Raises ValueError when the model has no adapters, holds adapters that `config` did not make, or trains anything
    beside them, which would not be saved.
    """
    if not isinstance(config, LoRAConfig):
        raise TypeError(f"cannot save a {type(config).__name__} in Hugging Face's layout; possible: LoRAConfig")
    state = adapter_state_dict(model)
    if not state:
        raise ValueError("nothing to save: the model has no adapters (merged already?)")
    if unsaved := [name for name, p in model.named_parameters() if p.requires_grad and name not in state]:
        raise ValueError(f"only adapters are saved, but these train too: {', '.join(unsaved)}; freeze them first")
    for name, layer in named_adapters(model):
        if layer.config != config:
            raise ValueError(
                f"{name} was made by {_differing(layer.config, config)}, not by {_differing(config, layer.config)}"
            )
    settings = {
        "peft_type": "LORA",
        # peft demands generation methods of whatever claims to be a causal language model
        "task_type": "CAUSAL_LM" if hasattr(model, "lm_head") else None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilized,
        "target_modules": list(config.targets),
        "bias": "none",
        "use_dora": False,
        "fan_in_fan_out": False,
    }
    # clones, since safetensors refuses a shared adapter's memory under two names
    tensors = {f"{PREFIX}{name}.weight": tensor.clone().contiguous().cpu() for name, tensor in state.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_atomically(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    _write_atomically(folder / CONFIG_FILE, lambda path: path.write_text(json.dumps(settings, indent=2) + "\n"))
    return folder


def load_adapter(model: Model, folder: str | Path) -> Model:
    """Inject the adapter that `folder` holds into `model` and load its weights; returns `model`.

    Reads what `save_adapter` and Hugging Face peft write. Names and shapes must fit exactly.
    Raises FileNotFoundError for a missing file, ValueError for settings or weights that do not fit; the model then is
    as it was, but frozen.
    """
    config = read_config(folder)
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS_FILE}; only safetensors are read, never pickled files")
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors has its own error class, not an OSError
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    foreign = [name for name in tensors if not (name.startswith(PREFIX) and name.endswith(".weight"))]
    if foreign:
        raise ValueError(f"{path} holds names that are not LoRA's, such as {foreign[0]!r}")
    inject(model, config)
    try:
        load_adapter_state_dict(
            model, {n.removeprefix(PREFIX).removesuffix(".weight"): tensor for n, tensor in tensors.items()}
        )
    except ValueError:
        remove_adapters(model)
        raise
    return model


def read_config(folder: str | Path) -> LoRAConfig:
    """The config in `folder`.

    Raises FileNotFoundError, or ValueError naming the file and each setting that is missing, malformed or unsupported.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}: is it an adapter's folder?")
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold a JSON object, got {settings!r:.60}")
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{path} describes {settings.get('peft_type')!r}; supported: 'LORA'")
    unsupported = [
        f"{key}={value!r}"
        for key, value in settings.items()
        if key not in READ and key not in IGNORED and value not in (*OFF, *NEUTRAL.get(key, ()))
    ]
    if unsupported:
        raise ValueError(f"{path} uses settings that are not supported here: {', '.join(unsupported)}")
    settings.setdefault("lora_dropout", 0.0)
    settings.setdefault("use_rslora", False)
    problems = [f"{key} is missing" for key in READ if key not in settings]
    problems += [
        f"{key} must be {kind}, got {settings[key]!r}"
        for key, (possible, kind) in READ.items()
        if key in settings and not possible(settings[key])
    ]
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    try:
        return LoRAConfig(
            rank=settings["r"],
            alpha=settings["lora_alpha"],
            dropout=settings["lora_dropout"],
            rank_stabilized=settings["use_rslora"],
            targets=tuple(settings["target_modules"]),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _differing(config: AdapterConfig, other: AdapterConfig) -> str:
    """`config`, written with only the fields that `other` has not or has otherwise."""
    fields = (f"{key}={value!r}" for key, value in vars(config).items() if vars(other).get(key) != value)
    return f"{type(config).__name__}({', '.join(fields)})"


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename: a reader sees the old file or the new one, never half of one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
