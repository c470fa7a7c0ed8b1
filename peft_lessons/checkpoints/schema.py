"""How an adapter's settings and tensors lie in Hugging Face's `adapter_config.json` and `adapter_model.safetensors`.

A `Layout` is the border between one of our configs and one of peft's: which setting is which field, and under which
name and in which shape a tensor lies in the file. `peft_names.py` holds one for each method.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, get_args, get_type_hints

from torch import Tensor

from peft_lessons.adapters import AdapterConfig, AdapterLayer

PREFIX = "base_model.model."

# Settings that say where an adapter comes from, how it was made or how its base keeps weights, not what it computes.
IGNORED = {
    "fan_in_fan_out",
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

# Any other setting may change what the adapter computes and is refused, unless it is off or the layout knows its value.
OFF: tuple[object, ...] = (None, False, {}, [])

KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple[str, ...]: "a list of names",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one method lies on disk."""

    config: type[AdapterConfig]
    peft_type: str
    settings: dict[str, str]  # our field: peft's setting
    tensors: dict[str, str]  # our tensor: what peft's name for it ends with
    marks: dict[str, Any] = field(default_factory=dict)  # what tells this method from others of its type
    constants: dict[str, Any] = field(default_factory=dict)  # what peft wants to be told beside
    accepted: dict[str, tuple[object, ...]] = field(default_factory=dict)  # other values that change nothing
    defaults: dict[str, Any] = field(default_factory=dict)  # of settings that older files lack
    ignored: frozenset[str] = frozenset()  # of peft's settings, those that only matter in training

    def to_settings(self, config: AdapterConfig) -> dict[str, Any]:
        """Peft's settings for `config`."""
        values = {theirs: getattr(config, ours) for ours, theirs in self.settings.items()}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {"peft_type": self.peft_type, **plain, **self.constants, **self.marks}

    def to_config(self, settings: Mapping[str, Any]) -> AdapterConfig:
        """Our config for peft's settings. Raises ValueError listing all that is missing, malformed or unsupported."""
        settings = {**self.defaults, **settings}
        known = {**self.constants, **self.marks}
        unsupported = [
            f"{name}={value!r}"
            for name, value in settings.items()
            if name not in {*self.read, *self.ignored, *IGNORED}
            and not any(same(value, neutral) for neutral in (*OFF, *self.accepted.get(name, ())))
            and not (name in known and same(value, known[name]))
        ]
        if unsupported:
            raise ValueError(f"settings that are not supported here: {', '.join(unsupported)}")
        types = get_type_hints(self.config)
        problems = [f"{name} is missing" for name in self.settings.values() if name not in settings]
        problems += [
            f"{theirs} must be {describe(types[ours])}, got {settings[theirs]!r}"
            for ours, theirs in self.settings.items()
            if theirs in settings and not fits(settings[theirs], types[ours])
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self.config(**{ours: settings[theirs] for ours, theirs in self.settings.items()})

    @property
    def read(self) -> set[str]:
        return set(self.settings.values())

    def name(self, module: str, tensor: str) -> str:
        """What peft calls `tensor` of the adapter at `module`."""
        return f"{PREFIX}{module}.{self.tensors[tensor]}"

    def encode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        """A tensor of `layer` as peft stores it."""
        return tensor

    def decode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        """A tensor that peft stored, as `layer` holds it."""
        return tensor

    def unpack(self, tensors: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """All tensors of a file in the full shapes that a new adapter has."""
        return tensors


def same(value: Any, other: Any) -> bool:
    return (type(value) is type(other) and value == other) or value == other == 0


def fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(fits(value, one) for one in get_args(kind))
    if kind == tuple[str, ...]:
        return type(value) is list and all(type(name) is str for name in value)
    return type(value) in ((int, float) if kind is float else (kind,))


def describe(kind: Any) -> str:
    return " or ".join(KINDS.get(one, "null") for one in get_args(kind)) if isinstance(kind, UnionType) else KINDS[kind]
