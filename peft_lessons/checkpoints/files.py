"""Adapters on disk, in Hugging Face peft's form: a folder with `adapter_config.json` and `adapter_model.safetensors`.

Which names and shapes a method has there is in `peft_names`. Weights are read from safetensors alone: nothing is
unpickled and no code runs.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peft_lessons.adapters import (
    AdapterConfig,
    AdapterLayer,
    Model,
    attach,
    named_adapters,
    require_no_adapters,
)
from peft_lessons.checkpoints.peft_names import in_our_words, layout_for, layout_of
from peft_lessons.checkpoints.schema import Layout, from_json
from peft_lessons.checkpoints.weights import fill, tensor_places, unfit, whole_modules
from peft_lessons.files import current, read_together, write_together
from peft_lessons.targets import matches, own_name, own_names, unwrapped

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MOST_SETTINGS_BYTES = 1 << 20  # real ones have some hundred


def save_adapter(model: nn.Module, config: AdapterConfig, folder: str | Path, base_model: str | None = None) -> Path:
    """Write the adapters of `model` to `folder` (made when absent); returns the folder.

    The two files are replaced together: after an interruption `load_adapter` finds the old adapter or the new one.
    Modules have the names that the model's own code gives, also inside of `torch.compile`, DDP and their like.
    `base_model` is the name of the base's checkpoint, for whoever loads the folder later.

    Raises:
        ValueError: when the model has no adapters, several in one place, adapters that `config` did not make or
            numbers that are not finite, or trains anything beside them, which would not be saved.

    Examples:
        >>> import tempfile
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, inject, save_adapter
        >>> config = LoRAConfig(rank=2, targets=("0",))
        >>> model = inject(nn.Sequential(nn.Linear(8, 4)), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(path.name for path in save_adapter(model, config, folder).iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    adapters = [(own_name(model, name), layer) for name, layer in named_adapters(model)]
    for one in (config, *(layer.config for _, layer in adapters)):
        if one.saved_by != AdapterConfig.saved_by:
            raise ValueError(f"the adapters of this model are saved one by one: {one.saved_by}")
    layout = layout_of(config)
    settings = {
        **layout.to_settings(config),
        "task_type": _task_type(unwrapped(model)),
        "base_model_name_or_path": base_model,
        "inference_mode": True,
    }
    if not adapters:
        raise ValueError("nothing to save: the model has no adapters (merged already?)")
    own = {id(tensor) for _, layer in adapters for name, tensor in layer.named_parameters() if not _in_base(name)}
    if unsaved := [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]:
        raise ValueError(
            f"only adapters are saved, but these train too: {', '.join(unsaved)}; freeze them first, or name their "
            "module in the config's modules_to_save"
        )
    for name, layer in adapters:
        if difference := _differing(layer.config, config.at(name)):
            raise ValueError(f"{name} was made by {difference}, not by {_differing(config.at(name), layer.config)}")
    places = list(tensor_places(adapters, layout))
    for place in places:
        if problem := unfit(place.tensor, place.tensor.dtype):
            raise ValueError(f"{place.short_name} {problem}: nothing is written")
    # clones, since safetensors refuses a shared adapter's memory under two names
    tensors = {place.name: place.encode(place.tensor).detach().clone().contiguous().cpu() for place in places}
    folder = Path(folder)
    write_together(
        folder,
        {
            WEIGHTS_FILE: lambda path: save_file(tensors, path, metadata={"format": "pt"}),
            CONFIG_FILE: lambda path: path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8"),
        },
    )
    return folder


def load_adapter(model: Model, folder: str | Path) -> Model:
    """Inject the adapter that `folder` holds into `model` and load its weights; returns `model`.

    Reads what `save_adapter` and Hugging Face peft write. Names and shapes must fit exactly. PiSSA and LoftQ compute
    their start from the base's weights again, so for them the base must be the very one that was trained on.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for settings or weights that do not fit.
        TypeError: for a module that the method cannot adapt; the model then is as it was.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, inject, load_adapter, save_adapter
        >>> base, config = nn.Linear(8, 4), LoRAConfig(rank=2, targets=("0",))
        >>> model = inject(nn.Sequential(base), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load_adapter(nn.Sequential(base), save_adapter(model, config, folder))
        >>> torch.equal(again[0].lora_A, model[0].lora_A)
        True
    """
    stored = read_adapter(folder)
    require_no_adapters(model)
    layers, _ = restore(model, stored)
    return attach(model, layers)


@dataclass(frozen=True)
class StoredAdapter:
    """What a folder holds, before there is a model to put it in."""

    settings: dict[str, Any]  # as the file says them
    config: AdapterConfig
    layout: Layout
    tensors: dict[str, Tensor]  # by their names in the file

    @property
    def lacks_biases(self) -> bool:
        """Whether the base's biases trained, but are not in the file."""
        trained = self.settings.get("bias") not in (None, "none")
        return trained and not any(name.endswith(".bias") for name in self.tensors)


def read_adapter(folder: str | Path) -> StoredAdapter:
    """Read a folder.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for one that cannot be understood.
    """
    settings, tensors = read_together(Path(folder), (CONFIG_FILE, WEIGHTS_FILE), lambda: _read_files(folder))
    layout, config = _read(settings, tuple(tensors), folder)
    _require_room_for(config, layout, tensors, folder)
    try:
        return StoredAdapter(settings, config, layout, layout.unpack(tensors, settings))
    except ValueError as error:
        raise ValueError(f"{Path(folder) / CONFIG_FILE}: {error}") from error


def _read_files(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    settings = _read_settings(folder)
    path = current(Path(folder), WEIGHTS_FILE)
    if not path.is_file():
        _read(settings, (), folder)  # an error in the settings comes first
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS_FILE}; only safetensors are read, never pickled files")
    try:
        return settings, load_file(path)
    except Exception as error:  # safetensors has its own error class, not an OSError
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def restore(model: nn.Module, stored: StoredAdapter) -> tuple[dict[nn.Module, AdapterLayer], AdapterConfig]:
    """Build the adapters for `model`, with their weights. The model stays as it is; `attach` puts them in.

    Returns the config that made them, too, which says where they go in this model.

    Raises:
        ValueError: for weights that do not fit, and for a model whose own weights were not loaded.
    """
    config = stored.layout.placed(stored.config, model)
    if stored.lacks_biases and (biased := [n for m, n in config.modules(model).items() if _has_bias(m)]):
        raise ValueError(
            f"settings that are not supported here: bias={stored.settings['bias']!r} in a file without biases, for a "
            f"base that has them, as {biased[0]}"
        )
    listed = from_json(stored.settings.get("modules_to_save") or [], tuple[str, ...])
    not_there = [one for one in listed if one not in config.modules_to_save]
    if absent := [one for one in not_there if any(matches(name, one) for name, _ in own_names(model))]:
        raise ValueError(f"these weights do not fit this model: missing {absent[0]}, which modules_to_save names")
    if empty := [name for module, name in config.modules(model).items() if any(p.is_meta for p in module.parameters())]:
        raise ValueError(f"{empty[0]} is on the meta device, which holds no numbers: load the model's weights first")
    layers = config.build(model)
    adapters = [(name, layers[module]) for name, module in own_names(model) if module in layers]
    fill(model, adapters, stored.layout, stored.tensors)
    return layers, config


def read_config(folder: str | Path) -> AdapterConfig:
    """Read the config in `folder`.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: which names the file and each setting that is missing, malformed or unsupported.
    """
    settings, path = _read_settings(folder), current(Path(folder), WEIGHTS_FILE)
    if not path.is_file():
        return _read(settings, (), folder)[1]
    try:
        with safe_open(path, framework="pt") as file:
            names = tuple(file.keys())
    except Exception as error:  # as above
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return _read(settings, names, folder)[1]


def _read(settings: dict[str, Any], names: tuple[str, ...], folder: str | Path) -> tuple[Layout, AdapterConfig]:
    """Return the layout and config of a file with these settings, in which tensors have these names."""
    try:
        settings = in_our_words(settings, names) if names else settings
        layout = layout_for(settings)
        config = layout.to_config(settings)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{Path(folder) / CONFIG_FILE}: {error}") from error
    if names and config.modules_to_save:
        if not (whole := whole_modules(config.modules_to_save, layout, names)):
            raise ValueError(f"{folder} holds none of the modules that modules_to_save names: {config.modules_to_save}")
        config = replace(config, modules_to_save=whole)
    return layout, config


def _read_settings(folder: str | Path) -> dict[str, Any]:
    path = current(Path(folder), CONFIG_FILE)
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


def _require_room_for(config: AdapterConfig, layout: Layout, tensors: dict[str, Tensor], folder: str | Path) -> None:
    """ValueError for sizes beyond every tensor of the file, which would ask for memory before shapes are compared."""
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    sizes = [(name, value) for name, value in vars(config).items() if name in layout.sides]
    if "rank" in layout.sides:
        sizes += [(f"rank_pattern[{name!r}]", value) for name, value in getattr(config, "rank_pattern", ())]
    for name in ("rank_pattern", "alpha_pattern"):
        if (count := len(getattr(config, name, ()))) > len(tensors):
            raise ValueError(f"{Path(folder) / CONFIG_FILE}: {name} has {count:,} entries for {len(tensors):,} tensors")
    for name, value in sizes:
        if value > largest:
            raise ValueError(
                f"{Path(folder) / CONFIG_FILE}: {name} is {value:,}, but no tensor of {WEIGHTS_FILE} has a side above "
                f"{largest:,}"
            )


def _task_type(model: Any) -> str | None:
    """Return peft's name for what the model is for: of a language model peft demands the methods of generation."""
    generates = model.can_generate() if hasattr(model, "can_generate") else hasattr(model, "lm_head")
    if not generates:
        return None
    both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return "SEQ_2_SEQ_LM" if both else "CAUSAL_LM"


def _has_bias(module: nn.Module) -> bool:
    return getattr(module, "bias", None) is not None


def _in_base(name: str) -> bool:
    return name.startswith("base_layer.")


def _differing(config: AdapterConfig, other: AdapterConfig) -> str:
    """`config`, written with only the fields that `other` has not or has otherwise; nothing when they say the same."""

    def plain(value: object) -> object:
        return sorted(value, key=repr) if isinstance(value, tuple) else value  # names of modules, in no order

    theirs = {key: plain(value) for key, value in vars(other).items()}
    fields = [f"{key}={value!r}" for key, value in vars(config).items() if theirs.get(key) != plain(value)]
    if not fields and type(config) is type(other):
        return ""
    return f"{type(config).__name__}({', '.join(fields)})"
