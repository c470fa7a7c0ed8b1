"""Adapters on disk, in Hugging Face peft's form: a folder with `adapter_config.json` and `adapter_model.safetensors`.

Which names and shapes a method has there is in `layouts`. Weights are read from safetensors alone: nothing is unpickled
and no code runs.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer, Model, inject, named_adapters, remove_adapters
from peft_lessons.checkpoints.peft_names import layout_for, layout_of
from peft_lessons.checkpoints.schema import PREFIX, Layout
from peft_lessons.files import write_atomically

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MOST_SETTINGS_BYTES = 1 << 20  # real ones have some hundred
Adapters = list[tuple[str, AdapterLayer]]  # the name of a module, and its adapter


def save_adapter(model: nn.Module, config: AdapterConfig, folder: str | Path, base_model: str | None = None) -> Path:
    """Write the adapters of `model` to `folder` (made when absent), atomically; returns the folder.

    `base_model` is the name of the base's checkpoint, for whoever loads the folder later.
    Raises ValueError when the model has no adapters, holds adapters that `config` did not make, or trains anything
    beside them, which would not be saved.
    """
    layout = layout_of(config)
    adapters = list(named_adapters(model))
    if not adapters:
        raise ValueError("nothing to save: the model has no adapters (merged already?)")
    own = {id(tensor) for _, layer in adapters for name, tensor in layer.named_parameters() if not _in_base(name)}
    if unsaved := [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]:
        raise ValueError(f"only adapters are saved, but these train too: {', '.join(unsaved)}; freeze them first")
    for name, layer in adapters:
        if difference := _differing(layer.config, config):
            raise ValueError(f"{name} was made by {difference}, not by {_differing(config, layer.config)}")
    settings = {
        **layout.to_settings(config),
        # peft demands generation methods of whatever claims to be a causal language model
        "task_type": "CAUSAL_LM" if hasattr(model, "lm_head") else None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
    }
    # clones, since safetensors refuses a shared adapter's memory under two names
    tensors = {
        place: layout.encode(layer, tensor).clone().contiguous().cpu()
        for place, layer, tensor in _places(adapters, layout)
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG_FILE, lambda path: path.write_text(json.dumps(settings, indent=2) + "\n"))
    return folder


def load_adapter(model: Model, folder: str | Path) -> Model:
    """Inject the adapter that `folder` holds into `model` and load its weights; returns `model`.

    Reads what `save_adapter` and Hugging Face peft write. Names and shapes must fit exactly. PiSSA and LoftQ compute
    their start from the base's weights again, so for them the base must be the very one that was trained on.
    Raises FileNotFoundError for a missing file, ValueError for settings or weights that do not fit; the model then is
    as it was, but frozen.
    """
    stored = read_adapter(folder)
    inject(model, stored.config)
    try:
        fill(list(named_adapters(model)), stored)
    except BaseException:
        remove_adapters(model)
        raise
    return model


@dataclass(frozen=True)
class StoredAdapter:
    """What a folder holds, before there is a model to put it in."""

    config: AdapterConfig
    layout: Layout
    tensors: dict[str, Tensor]  # by their names in the file


def read_adapter(folder: str | Path) -> StoredAdapter:
    """Read a folder. Raises FileNotFoundError for a missing file, ValueError for one that cannot be understood."""
    settings = _read_settings(folder)
    layout, config = _read(settings, folder)
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS_FILE}; only safetensors are read, never pickled files")
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors has its own error class, not an OSError
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    _require_room_for(config, tensors, folder)
    try:
        return StoredAdapter(config, layout, layout.unpack(tensors, settings))
    except ValueError as error:
        raise ValueError(f"{Path(folder) / CONFIG_FILE}: {error}") from error


def read_config(folder: str | Path) -> AdapterConfig:
    """The config in `folder`.

    Raises FileNotFoundError, or ValueError naming the file and each setting that is missing, malformed or unsupported.
    """
    return _read(_read_settings(folder), folder)[1]


def _read(settings: dict[str, Any], folder: str | Path) -> tuple[Layout, AdapterConfig]:
    try:
        layout = layout_for(settings)
        return layout, layout.to_config(settings)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{Path(folder) / CONFIG_FILE}: {error}") from error


def _read_settings(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}: is it an adapter's folder?")
    if path.stat().st_size > MOST_SETTINGS_BYTES:
        raise ValueError(f"{path} is larger than {MOST_SETTINGS_BYTES:,} bytes: no adapter's settings are")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold a JSON object, got {settings!r:.60}")
    return settings


def _require_room_for(config: AdapterConfig, tensors: dict[str, Tensor], folder: str | Path) -> None:
    """ValueError for sizes beyond every tensor of the file, which would ask for memory before shapes are compared."""
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    for name, value in vars(config).items():
        if name in ("rank", "tokens", "bottleneck") and value > largest:
            raise ValueError(
                f"{Path(folder) / CONFIG_FILE}: {name} is {value:,}, but no tensor of {WEIGHTS_FILE} has a side above "
                f"{largest:,}"
            )


def _places(adapters: Adapters, layout: Layout) -> Iterator[tuple[str, AdapterLayer, Tensor]]:
    """The name in the file of every tensor that the layout stores, its adapter, and the tensor itself."""
    for module, layer in adapters:
        for name, tensor in layer.state_dict(keep_vars=True).items():
            if name in layout.tensors:
                yield layout.name(module, name), layer, tensor


def fill(adapters: Adapters, stored: StoredAdapter) -> None:
    """Copy the file's tensors into the adapters. Raises ValueError unless names and shapes are exactly equal."""
    layout, tensors = stored.layout, stored.tensors
    places = list(_places(adapters, layout))
    expected = {place for place, _, _ in places}
    filled = {id(tensor) for place, _, tensor in places if place in tensors}  # under one of its names, if it is shared
    problems = [f"missing {place}" for place, _, tensor in places if place not in tensors and id(tensor) not in filled]
    problems += [f"unexpected {place}" for place in tensors if place not in expected]
    for place, layer, tensor in places:
        if place in tensors and tensors[place].shape != (shape := layout.encode(layer, tensor).shape):
            problems.append(f"{place} is {tuple(tensors[place].shape)}, expected {tuple(shape)}")
    problems += [
        f"{place} holds numbers that are not finite, or no numbers of a real floating type"
        for place, tensor in tensors.items()
        if not tensor.is_floating_point() or not tensor.isfinite().all()
    ]
    if problems:
        short = [problem.replace(PREFIX, "") for problem in dict.fromkeys(problems)]
        listed = "; ".join(short[:6]) + (f"; and {len(short) - 6} more" if len(short) > 6 else "")
        raise ValueError(f"these weights do not fit this model: {listed}")
    with torch.no_grad():
        for place, layer, tensor in places:
            if place in tensors:
                tensor.copy_(layout.decode(layer, tensors[place]))


def _in_base(name: str) -> bool:
    return name.startswith("base_layer.")


def _differing(config: AdapterConfig, other: AdapterConfig) -> str:
    """`config`, written with only the fields that `other` has not or has otherwise; nothing when they say the same."""

    def plain(value: object) -> object:
        return sorted(value) if isinstance(value, tuple) else value  # names of modules, in no order

    theirs = {key: plain(value) for key, value in vars(other).items()}
    fields = [f"{key}={value!r}" for key, value in vars(config).items() if theirs.get(key) != plain(value)]
    if not fields and type(config) is type(other):
        return ""
    return f"{type(config).__name__}({', '.join(fields)})"
