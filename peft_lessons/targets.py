"""Where adapters go: modules by name, by pattern, or all linear ones, in all layers of a model or in some.

Names are those that a model's own code gives. What wraps a model or a part of it (`torch.compile`, DDP, FSDP,
activation checkpointing) adds a part to each name inside, and that part is left out here.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parallel import DataParallel, DistributedDataParallel

from peft_lessons.bases import is_linear
from peft_lessons.explained import explain_fields


@dataclass(frozen=True)
class AllLinear:
    """Every linear layer but the output head. Use the constant `ALL_LINEAR`."""


ALL_LINEAR = AllLinear()
Names = tuple[str, ...] | re.Pattern[str]
Targets = Names | AllLinear

WRAPPING_PARTS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which modules of a model are adapted, and which train whole beside them.

    A name is a module's whole name or an end of it, cut at a dot: "q_proj" matches "model.layers.0.self_attn.q_proj".

    Attributes:
        targets: What is adapted: names, a compiled regular expression that must match a module's whole name, or
            `ALL_LINEAR`.
        exclude: What of that is left alone, by names or a regular expression.
        layers: Numbers of the blocks that are adapted, counted from 0; () means all. A block's number is the first that
            follows a name: 3 in "model.layers.3.mlp.experts.0.up_proj". What a target names in full is adapted wherever
            it lies.
        layers_pattern: Names that a block's number may follow, such as ("layers",), where the first one is another.
        modules_to_save: Names of modules that train as a whole and are saved with the adapters, such as a new
            classifier. What lies inside of them is not adapted.
        trainable_tokens: From embeddings to those of their rows that train, such as {"embed_tokens": (32000, 32001)}
            for two new tokens. A head whose weight is tied to the embedding computes with the same rows.

    Raises:
        TypeError: for a string where names are meant.
        ValueError: without a target and for `layers` beside a regular expression or ALL_LINEAR, which peft cannot
            express.
    """

    targets: Targets
    exclude: Names = ()
    layers: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    trainable_tokens: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        explain_fields(cls)

    def __post_init__(self) -> None:
        if not isinstance(self.targets, AllLinear):
            object.__setattr__(self, "targets", checked("targets", self.targets, pattern=True))
        object.__setattr__(self, "exclude", checked("exclude", self.exclude, pattern=True))
        object.__setattr__(self, "layers", checked("layers", self.layers, kind=int))
        for name in ("layers_pattern", "modules_to_save"):
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        object.__setattr__(self, "trainable_tokens", _rows(self.trainable_tokens))
        self.require_targets()
        if self.layers and not isinstance(self.targets, tuple):
            raise ValueError(f"layers goes with a tuple of names as targets; got {self.targets!r}: say it in exclude")
        if self.layers_pattern and not self.layers:
            raise ValueError(f"layers_pattern {self.layers_pattern} says where numbers stand, but layers names none")

    def require_targets(self) -> None:
        """Raise ValueError when nothing is named."""
        if not self.targets:
            raise ValueError("targets is empty: name at least one module, such as ('q_proj', 'v_proj')")

    def parameters(self, name: str, module: nn.Module) -> tuple[str, ...]:
        """Which of its own parameters are adapted in `module`, which then is called with others. Most methods: none."""
        return ()

    def modules(self, model: nn.Module) -> dict[nn.Module, str]:
        """Return what is adapted in `model` or trains whole, each module once, with its first name.

        Raises:
            ValueError: for a name or number that matches nothing, and when nothing is left to adapt. The message lists
                what there is.
        """
        names = [(name, module) for name, module in own_names(model) if name]
        self._require_matches(names)
        whole = [name for name, _ in names if self.trains_whole(name) or self.trained_ids(name)]
        meant = self._meant(model, names)

        def inside(name: str) -> bool:
            return any(f"{name}.".startswith(f"{one}.") for one in whole)

        whole_names = self.targets if isinstance(self.targets, tuple) else ()
        kept = [
            (name, module)
            for name, module in meant
            if not selects(self.exclude, name)
            and not inside(name)
            and (not self.layers or name in whole_names or _number(name, self.layers_pattern) in self.layers)
        ]
        holders = [(name, module) for name, module in names if self.parameters(name, module) and not inside(name)]
        if not kept and not holders:
            raise ValueError(
                f"nothing is left to adapt: {quoted([name for name, _ in meant])} are meant by targets, and taken out "
                "again by exclude, layers or modules_to_save"
            )
        if twice := [name for name, module in holders if any(module is other for _, other in kept)]:
            raise ValueError(f"{twice[0]} is meant by targets, and its parameter by target_parameters: name it once")
        found: dict[nn.Module, str] = {}
        for name, module in (*kept, *holders, *((name, module) for name, module in names if name in whole)):
            found.setdefault(module, name)
        return found

    def trains_whole(self, name: str) -> bool:
        """Return whether the module called `name` is one of `modules_to_save`."""
        return selects(self.modules_to_save, name)

    def trained_ids(self, name: str) -> tuple[int, ...]:
        """Which rows of the embedding called `name` train."""
        return next((ids for one, ids in self.trainable_tokens if matches(name, one)), ())

    def _require_matches(self, names: list[tuple[str, nn.Module]]) -> None:
        linear = [name for name, module in names if is_linear(module)]
        ends = list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
        targets = self.targets if isinstance(self.targets, tuple) else ()
        whole = (*self.modules_to_save, *(name for name, _ in self.trainable_tokens))
        for wanted, there in ((targets, ends), (whole, [name for name, _ in names])):
            if missing := [one for one in wanted if not any(matches(name, one) for name, _ in names)]:
                raise ValueError(f"no module ends with {quoted(missing)}; this model has {quoted(there)}")
        if isinstance(self.targets, re.Pattern) and not any(self.targets.fullmatch(name) for name, _ in names):
            raise ValueError(
                f"the regular expression {self.targets.pattern!r} matches no module's whole name; this model has "
                f"{quoted(linear)}"
            )
        found = (_number(name, self.layers_pattern) for name, _ in names if selects(targets, name))
        numbers = {number for number in found if number is not None}
        if missing_layers := sorted(set(self.layers) - numbers):
            raise ValueError(f"no target lies in layers {missing_layers}; they lie in {sorted(numbers)}")

    def _meant(self, model: nn.Module, names: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
        if isinstance(self.targets, AllLinear):
            linear = _all_linear(model)
            return [(name, module) for name, module in names if module in linear]
        if isinstance(self.targets, tuple):  # target by target: a seed gives each adapter the same start as ever
            return [(name, module) for target in self.targets for name, module in names if matches(name, target)]
        return [(name, module) for name, module in names if selects(self.targets, name)]


def _number(name: str, patterns: tuple[str, ...]) -> int | None:
    """Return the number of the block `name` lies in: the first after a name, or after one of `patterns`, as in peft."""
    for pattern in patterns or (r"[^.]*",):
        if match := re.match(rf"(?:^|.*?\.)(?:{pattern})\.(\d+)\.", name):
            return int(match[1])
    return None


def own_names(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module in `model` under the name that the model's own code gives to it, without what only wraps another.

    The first is the model itself, whose name is empty. A shared module comes once for each of its names.
    """
    for name, module in model.named_modules(remove_duplicate=False):
        if not _wraps(module):
            yield own_name(model, name), module


def own_name(model: nn.Module, name: str) -> str:
    """`name`, as `model.named_modules()` gives it, without the parts that wrappers add."""
    if not any(part in WRAPPING_PARTS or part == "module" for part in name.split(".")):
        return name
    parts, module = [], model
    for part in name.split("."):
        if not _wraps(module):
            parts.append(part)
        module = module.get_submodule(part)
    return ".".join(parts)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of what wraps it."""
    return next(module for _, module in own_names(model))


def _wraps(module: nn.Module) -> bool:
    parts = dict(module.named_children())
    return isinstance(module, DataParallel | DistributedDataParallel) or (
        len(parts) == 1 and not WRAPPING_PARTS.isdisjoint(parts)
    )


def selects(names: Names, name: str) -> bool:
    """Return whether the module called `name` is meant by one of `names`, or by a regular expression as a whole."""
    if isinstance(names, re.Pattern):
        return names.fullmatch(name) is not None
    return any(matches(name, one) for one in names)


def matches(name: str, target: str) -> bool:
    """Return whether the module called `name` is meant by `target`: its whole name or an end of it, cut at a dot."""
    return f".{name}".endswith(f".{target}")


def _all_linear(model: nn.Module) -> set[nn.Module]:
    """Every linear layer, dense or quantized, that is called (attention's own projection is not), but the head."""
    model = unwrapped(model)
    get_head = getattr(model, "get_output_embeddings", None)  # what transformers calls it
    head = get_head() if callable(get_head) else getattr(model, "lm_head", None)
    return {
        module
        for module in model.modules()
        if is_linear(module) and not isinstance(module, NonDynamicallyQuantizableLinear) and module is not head
    }


def checked(field: str, value: Any, pattern: bool = False, kind: type = str) -> Any:
    """`value` as a tuple of `kind`, or as it is where it is a regular expression and may be. Raises TypeError."""
    if pattern and isinstance(value, re.Pattern):
        return value
    if isinstance(value, str):
        hint = f"; re.compile({value!r}) is a regular expression" if pattern else ""
        raise TypeError(f"{field} is a tuple of names, such as ('{value}',); got the string {value!r}{hint}")
    what = "whole numbers" if kind is int else "names"
    if not isinstance(value, Iterable):
        raise TypeError(f"{field} is a tuple of {what}, got {value!r}")
    value = tuple(value)
    if strangers := [one for one in value if type(one) is not kind]:
        raise TypeError(f"{field} holds {what}, got {strangers[0]!r}")
    return value


def _rows(value: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Turn a mapping from embeddings to rows into a tuple, which can be hashed and compared."""
    try:
        pairs = dict(value).items()
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"trainable_tokens maps embeddings to their rows, such as {{'embed_tokens': (32000,)}}; got {value!r}"
        ) from error
    return tuple((name, checked("trainable_tokens", rows, kind=int)) for name, rows in pairs)


def quoted(names: list[str]) -> str:
    shown = [repr(name) for name in names[:40]] + ([f"… ({len(names)} in all)"] if len(names) > 40 else [])
    return ", ".join(shown) or "no linear layer inside"
