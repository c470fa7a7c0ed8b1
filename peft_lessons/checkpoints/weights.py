"""The tensors of an adapter's file and those of the adapters in a model: which is which, and whether all fit."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterLayer, TrainedRows, TrainedWhole
from peft_lessons.biases import TrainedBias
from peft_lessons.checkpoints.schema import PREFIX, ROWS, Layout
from peft_lessons.experts import LoRAExperts
from peft_lessons.targets import WRAPPING_PARTS, own_names

BESIDE = (TrainedWhole, TrainedRows)  # what trains beside a method's adapters
Adapters = list[tuple[str, AdapterLayer]]  # the name of a module, and its adapter


@dataclass(frozen=True)
class Place:
    """A tensor of an adapter and its name in the file."""

    name: str
    own_name: str  # in the adapter
    tensor: Tensor
    layer: AdapterLayer
    layout: Layout

    def encode(self, tensor: Tensor) -> Tensor:
        """Return the adapter's tensor as the file has it."""
        return tensor if isinstance(self.layer, BESIDE) else self.layout.encode(self.layer, tensor)

    def decode(self, tensor: Tensor) -> Tensor:
        """Return the file's tensor as the adapter has it."""
        return tensor if isinstance(self.layer, BESIDE) else self.layout.decode(self.layer, tensor)

    @property
    def may_be_missing(self) -> bool:
        return not isinstance(self.layer, BESIDE) and self.layout.may_lack(self.layer, self.own_name)

    @property
    def short_name(self) -> str:
        return self.name.removeprefix(PREFIX)


def tensor_places(adapters: Adapters, layout: Layout) -> Iterator[Place]:
    """Every tensor that the file holds. A module that trains whole lies there under its own names."""
    for module, layer in adapters:
        for name, tensor in layer.state_dict(keep_vars=True).items():
            if (place := _place(module, layer, name, layout)) is not None:
                yield Place(place, name, tensor, layer, layout)


def _place(module: str, layer: AdapterLayer, tensor: str, layout: Layout) -> str | None:
    if isinstance(layer, TrainedWhole):
        part = tensor.removeprefix("trained.")
        return f"{PREFIX}{module}.{part}" if part != tensor else None
    if isinstance(layer, TrainedRows):
        return f"{PREFIX}{module}.{ROWS}" if tensor == "rows" and not layer.tied else None
    if isinstance(layer, TrainedBias):
        adapter = layer.adapter
        if adapter is not None and tensor.startswith("adapter."):
            return _place(module, adapter, tensor.removeprefix("adapter."), layout)
        depth = len(adapter.configs) if isinstance(adapter, LoRAExperts) else int(adapter is not None)
        return f"{PREFIX}{module}{'.base_layer' * depth}.bias" if tensor == "trained_bias" else None
    if isinstance(layer, LoRAExperts):  # peft wraps the module once for each parameter, first to last
        tensor, _, parameter = tensor.partition(".")
        module += ".base_layer" * [*reversed(layer.configs)].index(parameter) if parameter in layer.configs else ""
    return layout.name(module, tensor) if tensor in layout.tensors else None


def fill(model: nn.Module, adapters: Adapters, layout: Layout, tensors: dict[str, Tensor]) -> None:
    """Copy the file's tensors into `adapters`, which are made for `model`.

    Raises ValueError unless names and shapes are exactly equal. Peft stores the base's own weight beside an adapted
    embedding or head: such a tensor must be the base's, and is left.
    """
    places = list(tensor_places(adapters, layout))
    expected = {place.name for place in places}
    tensors = _under_own_names(tensors, expected)
    filled = {id(place.tensor) for place in places if place.name in tensors}  # under one of its names, if it is shared
    problems = [
        f"missing {place.short_name}"
        for place in places
        if place.name not in tensors and id(place.tensor) not in filled and not place.may_be_missing
    ]
    problems += _strangers(model, {name: tensor for name, tensor in tensors.items() if name not in expected})
    for place in places:
        if place.name in tensors:
            tensor, shape = tensors[place.name], place.encode(place.tensor).shape
            if tensor.shape != shape:
                problems.append(f"{place.short_name} is {tuple(tensor.shape)}, expected {tuple(shape)}")
            if problem := unfit(tensor, place.tensor.dtype):
                problems.append(f"{place.short_name} {problem}")
    if problems:
        problems = list(dict.fromkeys(problems))
        listed = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise ValueError(f"these weights do not fit this model: {listed}")
    with torch.no_grad():
        for place in places:
            if place.name in tensors:
                place.tensor.copy_(place.decode(tensors[place.name].to(place.tensor.dtype)))


def unfit(tensor: Tensor, dtype: torch.dtype) -> str:
    """Say what is wrong with `tensor` as numbers for one of `dtype`; nothing when it is right."""
    if tensor.is_meta:
        return "is on the meta device, which holds no numbers"
    if not dtype.is_floating_point:  # such as BatchNorm's count of batches
        return "" if tensor.dtype == dtype else f"holds {tensor.dtype}, not {dtype}"
    problem = f"holds numbers that are not finite, or no numbers of a real floating type ({tensor.dtype})"
    if not tensor.is_floating_point():
        return problem
    try:
        wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # 8-bit types know no test of finiteness
    except (NotImplementedError, RuntimeError):
        return problem
    return "" if wide.isfinite().all() else problem


def whole_modules(modules: tuple[str, ...], layout: Layout, names: Iterable[str]) -> tuple[str, ...]:
    """Which modules lie whole in a file with tensors of these names, by the ends of their names.

    Peft takes each module whose name ends with one of `modules`, "pre_classifier" for "classifier", and lists names of
    which a model needs to have only some: "classifier" and "score" stand in every file of a sequence classifier.
    """
    found: dict[str, bool] = {}
    for name in names:
        if name.endswith(tuple(f".{end}" for end in (ROWS, *layout.tensors.values()))):
            continue
        *parts, _ = plain_name(name).removeprefix(PREFIX).split(".")
        paths = [".".join(parts[: length + 1]) for length in range(len(parts))]
        for path in paths:
            if any(path.endswith(module) for module in modules):
                listed = next((module for module in modules if f".{path}".endswith(f".{module}")), None)
                found[listed or path.rpartition(".")[2]] = True
                break
    return tuple(found)


def plain_name(name: str) -> str:
    """Return a name in a file without the parts of wrappers by which no module is called."""
    return ".".join(part for part in name.split(".") if part not in WRAPPING_PARTS).removeprefix("module.")


def _under_own_names(tensors: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Return the tensors under the model's own names, where the file has those of a wrapped model.

    Raises ValueError when two then have the same name.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = plain_name(name)
        inside = PREFIX + plain.removeprefix(f"{PREFIX}module.")  # of DataParallel and DDP
        plain = inside if plain not in expected and inside in expected else plain
        if plain in named:
            raise ValueError(f"these weights do not fit this model: {plain.removeprefix(PREFIX)} is there twice")
        named[plain] = tensor
    return named


def _strangers(model: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    """Say what is wrong with tensors of a file that no adapter has: all that are not the base's own."""
    if not tensors:
        return []
    own = {
        f"{name}.{key}" if name else key: tensor
        for name, module in own_names(model)
        for key, tensor in module.named_parameters(recurse=False)
    }
    problems = []
    for name, tensor in tensors.items():
        short = name.removeprefix(PREFIX)
        base = own.get(short.replace(".base_layer.", ".", 1))
        if base is None:
            problems.append(f"unexpected {short}")
        elif not _same_numbers(tensor, base):
            problems.append(
                f"{short} is {tuple(tensor.shape)} and differs from the base's {tuple(base.shape)}: the file is of "
                "another base, or this trained too (name its module in modules_to_save then)"
            )
    return problems


def _same_numbers(tensor: Tensor, base: Tensor) -> bool:
    """Equal, or equal once the more precise of the two is rounded as the other was."""
    return tensor.shape == base.shape and any(
        torch.equal(tensor.to(dtype), base.to(tensor.device, dtype)) for dtype in {tensor.dtype, base.dtype}
    )
