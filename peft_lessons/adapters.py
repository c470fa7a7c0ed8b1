"""Adapters: small trainable modules around frozen layers.

A method is one frozen config (where, how much) and one adapter layer (what it computes). `inject` puts the layers
into a model, `merge` folds them away again. The model's own code never changes, and nothing is switched inside
`forward`, `train` or `eval`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from peft_lessons.bases import dtype_of, is_linear
from peft_lessons.exact import exact
from peft_lessons.low_rank import is_untouched

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Where a method goes. Each method's config adds how much.

    `targets` are names of modules or ends of names, cut at dots: "q_proj" matches "model.layers.0.self_attn.q_proj".
    """

    layer: ClassVar[type["AdapterLayer"]]
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            raise TypeError(
                f"targets is a tuple of names, such as ('{self.targets}',); got the string {self.targets!r}"
            )
        object.__setattr__(self, "targets", tuple(self.targets))
        if not self.targets:
            raise ValueError("targets is empty: name at least one module, such as ('q_proj', 'v_proj')")

    def wrap(self, name: str, base_layer: nn.Module) -> "AdapterLayer":
        """The adapter for the module called `name`."""
        return self.layer(base_layer, self)

    def connect(self, layers: list["AdapterLayer"]) -> None:
        """Give the adapters of one model what they share. Most methods share nothing."""


class AdapterLayer(nn.Module):
    """A frozen `base_layer` and what a method adds to it.

    A method writes two functions: `adapted(x)`, the cheap forward pass in training, and `merged()`, a new plain layer
    that computes the same. One contract test says that they agree.
    """

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.config = config
        self.enabled = True

    def adapted(self, *inputs: Any, **options: Any) -> Tensor:
        raise NotImplementedError

    def merged(self) -> nn.Module:
        raise TypeError(f"{type(self).__name__} cannot be folded into a plain layer")

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        return (self.adapted if self.enabled else self.base_layer)(*inputs, **options)

    def merged_tensor(self, name: str) -> Any:
        """The "weight" or "bias" of `merged`."""
        return getattr(self.merged(), name)

    @property
    def weight(self) -> Tensor:
        """The weight that computes now: that of `merged`, or the base's while this adapter is off.

        Made at each reading, for modules that read their layers' weights, as torch's encoder layers and T5's do.
        """
        return self._read("weight")

    @property
    def bias(self) -> Tensor | None:
        """As `weight`."""
        return self._read("bias")

    @exact()
    def _read(self, name: str) -> Any:
        if (module := self.now()) is not self:
            return getattr(module, name)
        try:
            return self.merged_tensor(name)
        except TypeError as error:  # there is none
            raise AttributeError(str(error)) from error

    def now(self) -> nn.Module:
        """The module that computes at the moment: the base while this adapter is switched off."""
        return self if self.enabled else self.base_layer

    def new_parameter(self, *shape: int) -> nn.Parameter:
        """A trainable tensor of zeros on the base's device, in fp32, or in fp64 over an fp64 base.

        fp32 over a bf16 or 4-bit base too: an update of 1e-4 is smaller than half a bf16 step at 0.1 and would be lost.
        """
        return nn.Parameter(torch.zeros(*shape, dtype=self.adapter_dtype, device=self.device))

    @property
    def adapter_dtype(self) -> torch.dtype:
        return torch.promote_types(self.base_dtype, torch.float32)

    @property
    def base_dtype(self) -> torch.dtype:
        """What the base computes in. A quantized layer holds no tensor of it, so its kind says it."""
        for layer in self.base_layer.modules():
            if is_linear(layer):
                return dtype_of(layer)
        return next(tensor.dtype for tensor in self.base_layer.parameters() if tensor.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(chain(self.base_layer.parameters(), self.base_layer.buffers())).device


@exact()
def inject(model: Model, config: AdapterConfig) -> Model:
    """Freeze `model` and wrap each module that `config.targets` names, in place; returns `model`.

    A module that is registered under several names gets one adapter, shared like the module itself. On any error the
    model is left as it was.

    Raises ValueError when a target matches nothing (the message lists what there is), when one lies inside of another,
    when the rank does not fit, and when the model has adapters already; TypeError when a target is of a kind that the
    method cannot adapt.
    """
    if present := [name for name, _ in named_adapters(model)]:
        raise ValueError(f"the model has adapters already ({present[0]} …): merge(model) first, or load the base anew")
    found = {target: _names(model, target) for target in config.targets}
    if missing := [target for target, names in found.items() if not names]:
        raise ValueError(f"no module ends with {_quoted(missing)}; this model has {_quoted(_linear_suffixes(model))}")

    wrappers: dict[nn.Module, AdapterLayer] = {}
    for name in chain.from_iterable(found.values()):
        base_layer = model.get_submodule(name)
        if base_layer in wrappers:
            continue
        try:
            wrappers[base_layer] = config.wrap(name, base_layer)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
    for name, module in ((name, module) for name, module in model.named_modules() if module in wrappers):
        if inside := [part for part, inner in module.named_modules() if part and inner in wrappers]:
            inner_name = f"{name}.{inside[0]}"
            raise ValueError(f"{inner_name} lies inside of {name}, and both would be adapted: name one of them")
    config.connect(list(wrappers.values()))
    model.requires_grad_(False)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in wrappers:
            replace_module(model, name, wrappers[module].train(module.training))
    return model


@exact()
def merge(model: Model) -> Model:
    """Replace each adapter by the plain layer that computes the same, in place; returns `model`.

    Sums are in fp32 and rounded once to the base's dtype. A quantized base becomes a dense layer of the dtype that it
    was quantized from. (Int8 does not say which: it is that of the bias, else fp32, and the model may want a cast.) The
    base weights are not written to, so a weight that is tied to another stays as it is there. Nothing starts to train:
    the plain layers are frozen. When `model` itself is an adapter layer, there is no place in it to change: returns the
    plain layer.

    Raises TypeError when a method cannot be folded or a base computes in a way of its own; ValueError when there is no
    adapter, when one has hooks, and when a sum is NaN or infinite. The model then is as it was.
    """
    adapters = list(named_adapters(model))
    if not adapters:
        raise ValueError("nothing to merge: the model has no adapters")
    plain: dict[AdapterLayer, nn.Module] = {}
    for name, layer in adapters:
        if layer not in plain:
            try:
                plain[layer] = _folded(layer)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {error}" if name else str(error)) from error
    for name, layer in adapters:
        model = replace_module(model, name, plain[layer])
    return model


def _folded(layer: AdapterLayer) -> nn.Module:
    plain = layer.merged()
    if not is_untouched(layer) or not is_untouched(layer.base_layer):
        raise ValueError(
            f"{type(layer.base_layer).__name__} has hooks or a forward of its own, which a plain layer would not have: "
            "remove them, merge, and add them again"
        )
    for name, tensor in plain.named_parameters():
        if not tensor.is_meta and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise ValueError(
                f"{count} of {tensor.numel()} values of the merged {name} are NaN or infinite in {tensor.dtype}"
            )
    return plain


def remove_adapters(model: Model) -> Model:
    """Replace each adapter by the base layer that it wraps, in place; returns `model`. What was learnt is dropped.

    The base stays frozen. When `model` itself is an adapter layer, returns its base layer.
    """
    for name, layer in list(named_adapters(model)):
        model = replace_module(model, name, layer.base_layer)
    return model


@contextmanager
def adapters_disabled(model: Model) -> Iterator[Model]:
    """Inside this context the model computes exactly what its base computes. Contexts may nest.

    Raises ValueError when there is no adapter: a merged model cannot be switched back.
    """
    layers = {layer for _, layer in named_adapters(model)}
    if not layers:
        raise ValueError("nothing to disable: the model has no adapters (once merged, an adapter cannot be taken out)")
    before = {layer: layer.enabled for layer in layers}
    try:
        for layer in layers:
            layer.enabled = False
        yield model
    finally:
        for layer, enabled in before.items():
            layer.enabled = enabled


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer should get: those that require a gradient, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of every adapter, by name, without those of its base layer. They are not copies.

    A shared adapter comes under each of its names. Beside the base weights this is the whole adapted model, as long as
    nothing else was trained.
    """
    return {
        f"{name}.{key}": tensor
        for name, layer in named_adapters(model)
        for key, tensor in layer.state_dict().items()
        if "base_layer" not in key.split(".")
    }


def load_adapter_state_dict(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy `state` into the adapters of `model`. Raises ValueError unless names and shapes are exactly equal."""
    own = adapter_state_dict(model)
    problems = [f"missing {name}" for name in own if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        listed = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise ValueError(f"these weights do not fit this model: {listed}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def named_adapters(model: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """Every place in `model` that holds an adapter. A shared adapter comes once for each of its names.

    What lies inside of an adapter is its own: an adapter of several comes once, without its parts.
    """
    inside = None
    for name, module in model.named_modules(remove_duplicate=False):
        if inside is not None and name.startswith(inside):
            continue
        if isinstance(module, AdapterLayer):
            inside = f"{name}." if name else ""
            yield name, module


def matches(name: str, target: str) -> bool:
    """Whether the module called `name` is meant by `target`: its whole name or an end of it, cut at a dot."""
    return f".{name}".endswith(f".{target}")


def _names(model: nn.Module, target: str) -> list[str]:
    return [name for name, _ in model.named_modules(remove_duplicate=False) if name and matches(name, target)]


def _linear_suffixes(model: nn.Module) -> list[str]:
    """Last parts of the names of all linear layers, in order, each once."""
    linear = (name for name, module in model.named_modules() if name and is_linear(module))
    return list(dict.fromkeys(name.rsplit(".")[-1] for name in linear))


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names) or "no linear layer inside"


def replace_module(model: Model, name: str, module: nn.Module) -> Model:
    """Put `module` in the place `name` of `model`; returns the model. Without a name the module is the whole model."""
    if not name:
        return cast(Model, module)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
    return model
