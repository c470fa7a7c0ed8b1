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
    remove_adapters,
)
from peft_lessons.methods.lora import LoRAConfig

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

# Settings of peft that change what an adapter computes and that LoRA here does not have: any other value is refused.
NEUTRAL = {
    "bias": "none",
    "use_dora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "layers_to_transform": None,
    "exclude_modules": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "target_parameters": None,
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
    ranks = {tensor.shape[0] for name, tensor in state.items() if name.endswith(".lora_A")}
    if ranks != {config.rank}:
        raise ValueError(f"the model holds adapters of rank {sorted(ranks)}, the config says rank {config.rank}")
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
        **{key: value for key, value in NEUTRAL.items() if key in ("bias", "use_dora", "fan_in_fan_out")},
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
    """The config in `folder`. Raises FileNotFoundError, or ValueError naming each setting that is not supported."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}: is it an adapter's folder?")
    try:
        settings: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{path} describes {settings.get('peft_type')!r}; supported: 'LORA'")
    unknown = [f"{k}={settings[k]!r}" for k, neutral in NEUTRAL.items() if settings.get(k) not in (neutral, None, [])]
    if unknown:
        raise ValueError(f"{path} uses settings that are not supported here: {', '.join(unknown)}")
    targets = settings.get("target_modules")
    if not isinstance(targets, list):
        raise ValueError(f"{path}: target_modules must be a list of names, got {targets!r}")
    return LoRAConfig(
        rank=settings["r"],
        alpha=settings["lora_alpha"],
        dropout=settings.get("lora_dropout", 0.0),
        rank_stabilized=settings.get("use_rslora", False),
        targets=tuple(targets),
    )


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
