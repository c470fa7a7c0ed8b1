"""How an adapter's settings and tensors lie in Hugging Face's `adapter_config.json` and `adapter_model.safetensors`.

A `Layout` is the border between one of our configs and one of peft's: which setting is which field, and under which
name and in which shape a tensor lies in the file. `peft_names.py` holds one for each method.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, get_args, get_type_hints

from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.biases import Bias
from peft_lessons.methods.registry import peft_type
from peft_lessons.targets import ALL_LINEAR, Names, Targets

PREFIX = "base_model.model."
ROWS = "token_adapter.trainable_tokens_delta"  # rows of an embedding: not what is added, but what they are

# Settings that say where an adapter comes from, how it was made or how its base keeps weights, not what it computes.
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
    "fan_in_fan_out",  # whether a weight is stored (in, out): the base layer's kind says it
}

# Any other setting may change what the adapter computes and is refused, unless it is off or the layout knows its value.
OFF: tuple[object, ...] = (None, False, {}, [])

LONGEST_PATTERN = 2000  # in characters
MOST_REPETITIONS = 6  # in a pattern; those that fine-tuning tools write have five

# What somebody can do about a setting that is not supported.
MERGE = "merge the adapter into its base with peft and load that"
WHY = {
    "bias": f"the base's own biases were trained: {MERGE}",
    "target_parameters": f"parameters that are no layer's weight: {MERGE}",
    "layer_replication": "the base itself has another depth",
    "alora_invocation_tokens": "an adapter that is on for a part of the tokens",
    "kasa_config": f"the base's smallest singular values were dropped: {MERGE}",
    "init_weights": f"a variant that is not here: {MERGE}",
    "use_bdlora": f"factors that are block-diagonal: {MERGE}",
    "init_lora_weights": f"the base's weights were rewritten at the start: {MERGE}, or save with "
    "path_initial_model_for_weight_conversion",
}

# Fields of ours that a file may lack or have as null. One that is empty is not written.
OPTIONAL = (
    "exclude",
    "layers",
    "layers_pattern",
    "modules_to_save",
    "trainable_tokens",
    "rank_pattern",
    "alpha_pattern",
    "target_parameters",
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one method lies on disk."""

    config: type[AdapterConfig]
    settings: dict[str, str]  # our field: peft's setting
    tensors: dict[str, str]  # our tensor: what peft's name for it ends with
    marks: dict[str, Any] = field(default_factory=dict)  # what tells this method from others of its type
    constants: dict[str, Any] = field(default_factory=dict)  # what peft wants to be told beside
    accepted: dict[str, tuple[object, ...]] = field(default_factory=dict)  # other values that change nothing
    defaults: dict[str, Any] = field(default_factory=dict)  # of settings that older files lack
    ignored: frozenset[str] = frozenset()  # of peft's settings, those that only matter in training
    dropped: tuple[str, ...] = ()  # parts of names of tensors that only matter in training
    sides: tuple[str, ...] = ("rank", "tokens", "bottleneck")  # fields that are a side of some tensor

    @property
    def peft_type(self) -> str:
        return peft_type(self.config)

    def to_settings(self, config: AdapterConfig) -> dict[str, Any]:
        """Peft's settings for `config`. Raises ValueError for what peft has no setting for."""
        values = {ours: getattr(config, ours, ()) for ours in (*self.settings, *OPTIONAL)}
        said = {ours: value for ours, value in values.items() if ours not in OPTIONAL or value}
        if strange := [f"{ours}={value!r}" for ours, value in said.items() if ours not in self.settings]:
            raise ValueError(f"files of the type {self.peft_type} cannot say {', '.join(strange)}: say it in targets")
        plain = {self.settings[ours]: to_json(ours, value) for ours, value in said.items()}
        return {"peft_type": self.peft_type, **plain, **self.constants, **self.marks}

    def to_config(self, settings: Mapping[str, Any]) -> AdapterConfig:
        """Our config for peft's settings. Raises ValueError listing all that is missing, malformed or unsupported."""
        settings = {**self.defaults, **settings}
        known = {**self.constants, **self.marks}
        unsupported = [
            f"{name}={value!r}{f' ({WHY[name]})' if name in WHY else ''}"
            for name, value in settings.items()
            if name not in {*self.read, *self.ignored, *IGNORED}
            and not any(same(value, neutral) for neutral in (*OFF, *self.accepted.get(name, ())))
            and not (name in known and same(value, known[name]))
        ]
        if unsupported:
            raise ValueError(f"settings that are not supported here: {', '.join(unsupported)}")
        types, values, problems = get_type_hints(self.config), {}, []
        for ours, theirs in self.settings.items():
            if ours in OPTIONAL and settings.get(theirs) in (None, "", [], {}):
                continue
            if theirs not in settings:
                problems.append(f"{theirs} is missing")
                continue
            try:
                values[ours] = from_json(settings[theirs], types[ours])
            except ValueError as error:
                problems.append(f"{theirs} must be {error}, got {settings[theirs]!r:.200}")
        if problems:
            raise ValueError("; ".join(problems))
        if not values.get("layers"):
            values.pop("layers_pattern", None)  # older releases of peft wrote it alone
        return self.config(**values)

    def placed(self, config: AdapterConfig, model: nn.Module) -> AdapterConfig:
        """Return `config` for `model`, where the file's settings leave open which modules are adapted."""
        return config

    @property
    def read(self) -> set[str]:
        return set(self.settings.values())

    def name(self, module: str, tensor: str) -> str:
        """Return what peft calls `tensor` of the adapter at `module`."""
        return f"{PREFIX}{module}.{self.tensors[tensor]}"

    def encode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        """Return a tensor of `layer` as peft stores it."""
        return tensor

    def decode(self, layer: AdapterLayer, tensor: Tensor) -> Tensor:
        """Return a tensor that peft stored, as `layer` holds it."""
        return tensor

    def may_lack(self, layer: AdapterLayer, tensor: str) -> bool:
        """Return whether a file may be without this tensor of `layer`, which then stays as a new adapter has it."""
        return False

    def unpack(self, tensors: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """All tensors of a file that count, in the full shapes that a new adapter has."""
        return {name: tensor for name, tensor in tensors.items() if not self._drops(name)}

    def _drops(self, name: str) -> bool:
        return not set(self.dropped).isdisjoint(name.split("."))


def same(value: Any, other: Any) -> bool:
    return (type(value) is type(other) and value == other) or value == other == 0


def to_json(field: str, value: Any) -> Any:
    """Return a field's value as a file has it. Raises ValueError for a regular expression that a file cannot hold."""
    if value == ALL_LINEAR:
        return "all-linear"
    if isinstance(value, re.Pattern):
        try:
            same_there = _pattern(value.pattern).flags == value.flags
        except ValueError as error:
            raise ValueError(f"{field} must be {error}, got {value.pattern!r:.200}") from error
        if not same_there:
            raise ValueError(
                f"{field}: flags are not saved; write them into the pattern, such as '(?i){value.pattern}'"
            )
        return value.pattern
    if field in ("rank_pattern", "alpha_pattern", "trainable_tokens"):
        return dict(value)  # JSON makes lists of tuples
    return list(value) if isinstance(value, tuple) else value


def from_json(value: Any, kind: Any) -> Any:
    """Return a file's value as a field of `kind` has it. Raises ValueError that says what the value must be."""
    return READERS[kind](value)


def _one_of(description: str, *kinds: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) not in kinds:
            raise ValueError(description)
        return value

    return read


def _list_of(description: str, kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        values = [value] if type(value) is kind else value
        if type(values) is not list or not all(type(one) is kind for one in values):
            raise ValueError(description)
        return tuple(values)

    return read


def _object_of(description: str, *kinds: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not dict or not all(type(one) in kinds for one in value.values()):
            raise ValueError(description)
        for name in value:
            _pattern(name)
        return tuple(value.items())

    return read


def _tokens(value: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    description = "an object of names and lists of whole numbers"
    if type(value) is not dict:
        raise ValueError(description)
    return tuple((name, _list_of(description, int)(ids)) for name, ids in value.items())


def _names(value: Any) -> Names:
    return _pattern(value) if type(value) is str else NAMES(value)


def _pattern(text: str) -> re.Pattern[str]:
    """Compile a regular expression of a stranger's file; one that may take for ever to match is refused.

    A repeated group takes time exponential in a name's length where it can be repeated in many ways. So does a long row
    of repetitions, which share a name between them in many ways.
    """
    try:
        compiled = re.compile(text)
    except re.error as error:
        raise ValueError(f"a list of names or a regular expression ({error})") from error
    bare = re.sub(r"\\.|\[[^]]*\]", "", text)
    repetitions = len(re.findall(r"(?<!\()(?:[*+?]|\{[\d,]*\})[?+]?", bare))
    verbose = re.search(r"\(\?[aiLmsu]*x", text)  # comments could hide what follows
    repeats_group = re.search(r"\)(?:[*+]|\{)", bare)
    if len(text) > LONGEST_PATTERN or repetitions > MOST_REPETITIONS or repeats_group or verbose:
        raise ValueError(
            f"a regular expression of at most {LONGEST_PATTERN:,} characters, with at most {MOST_REPETITIONS} "
            "repetitions, none of a group, and without comments"
        )
    return compiled


def _targets(value: Any) -> Targets:
    return ALL_LINEAR if type(value) is str and value.lower() == "all-linear" else _names(value)


def _bias(value: Any) -> Any:
    if value is not None and value not in get_args(Bias):
        raise ValueError(f"one of {', '.join(get_args(Bias))}")
    return value or "none"


NAMES = _list_of("a list of names", str)
READERS: dict[Any, Callable[[Any], Any]] = {
    int: _one_of("a whole number", int),
    int | None: _one_of("a whole number or null", int, NoneType),
    float: _one_of("a number", int, float),
    bool: _one_of("true or false", bool),
    Targets: _targets,
    Names: _names,
    Bias: _bias,
    tuple[str, ...]: NAMES,
    tuple[int, ...]: _list_of("a list of whole numbers", int),
    tuple[tuple[str, tuple[int, ...]], ...]: _tokens,
    tuple[tuple[str, int], ...]: _object_of("an object of names and whole numbers", int),
    tuple[tuple[str, float], ...]: _object_of("an object of names and numbers", int, float),
}
