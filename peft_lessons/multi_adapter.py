"""Several adapters on one base: switch between them, add them up, or give each sample of a batch its own.

The base's weights are there once. Each adapted layer holds an adapter of every name, and `using` says which computes.
Serving systems batch requests for many adapters in the same way (S-LoRA, arXiv:2311.03285). They add kernels that run
all the small products at once, where this code takes one adapter after the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.adapters import (
    AdapterConfig,
    AdapterLayer,
    Model,
    attach,
    named_adapters,
    naming,
    replace_module,
    require_no_adapters,
)
from peft_lessons.checkpoints.files import read_adapter, restore
from peft_lessons.linear import LinearAdapter
from peft_lessons.methods.lora import LoRAConfig, LoRALinear
from peft_lessons.methods.lora_fa import LoRAFAConfig
from peft_lessons.targets import Targets, own_name

Which = str | None | Sequence[str | None] | Mapping[str, float]


class SeveralAdapters(AdapterLayer):
    """Adapters of one module, of which `which` says who computes: None is the base. See `using`."""

    config: "SeveralConfig"

    def __init__(self, base_layer: nn.Module, config: "SeveralConfig", named: Mapping[str, AdapterLayer]) -> None:
        super().__init__(base_layer, config)
        self.names = tuple(named)
        self.adapters = nn.ModuleList(named.values())
        self.which: Which = None

    def get(self, name: str | None) -> nn.Module:
        """The adapter called `name`; the base when it is None, or when that adapter leaves this module alone."""
        return self.adapters[self.names.index(name)] if name in self.names else self.base_layer

    def now(self) -> nn.Module:
        if self.enabled and (self.which is None or isinstance(self.which, str)):
            return self.get(self.which)
        return super().now()

    def adapted(self, *inputs: Any, **options: Any) -> Tensor:
        which = self.which
        if which is None or isinstance(which, str):
            return self.get(which)(*inputs, **options)
        if len(inputs) != 1 or options:
            raise TypeError("an adapter of whole sequences is used alone: neither weighted nor in a mixed batch")
        return self._weighted(inputs[0], which) if isinstance(which, Mapping) else self._mixed(inputs[0], which)

    def merged(self) -> nn.Module:
        raise TypeError("several adapters cannot be folded into a plain layer: concatenate(model, weights) first")

    def _weighted(self, x: Tensor, weights: Mapping[str, float]) -> Tensor:
        """What a layer with the weight W + Σ wᵢ (Wᵢ − W) gives, Wᵢ being that of adapter i."""
        y = self.base_layer(x)
        total = y
        for name, weight in weights.items():
            if (layer := self.get(name)) is not self.base_layer:
                if not isinstance(layer, LinearAdapter):
                    raise TypeError(
                        f"only adapters of linear layers can be weighted, {name!r} is {type(layer).__name__}"
                    )
                total = total + weight * (layer(x) - y)
        return total

    def _mixed(self, x: Tensor, names: Sequence[str | None]) -> Tensor:
        if len(names) != len(x):
            raise ValueError(f"a batch of {len(x)} samples needs as many names, got {len(names)}")
        rows = {name: [row for row, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
        order = torch.tensor([row for group in rows.values() for row in group], device=x.device)
        return torch.cat([self.get(name)(x[group]) for name, group in rows.items()])[order.argsort()]


@dataclass(frozen=True, kw_only=True)
class SeveralConfig(AdapterConfig):
    """The configs of several adapters, by their names. Each says where its own go.

    Raises ValueError when there is none, or when a name is empty.
    """

    layer: ClassVar[type[AdapterLayer]] = SeveralAdapters
    adapters: Mapping[str, AdapterConfig]
    targets: Targets = ()

    def __post_init__(self) -> None:
        if not self.adapters or not all(self.adapters):
            raise ValueError(f"adapters needs at least one name and no empty one, got {list(self.adapters)}")

    def modules(self, model: nn.Module) -> dict[nn.Module, str]:
        found = [config.modules(model) for config in self.adapters.values()]
        return {module: name for modules in found for module, name in modules.items()}

    def build(self, model: nn.Module) -> dict[nn.Module, AdapterLayer]:
        return self.group({own: config.build(model) for own, config in self.adapters.items()})

    def group(self, parts: Mapping[str, Mapping[nn.Module, AdapterLayer]]) -> dict[nn.Module, AdapterLayer]:
        """One layer for all adapters of a module, from each adapter's own."""
        return {
            module: SeveralAdapters(module, self, {own: part[module] for own, part in parts.items() if module in part})
            for module in dict.fromkeys(module for part in parts.values() for module in part)
        }


def load_adapters(model: Model, folders: Mapping[str, str | Path]) -> Model:
    """Load the adapter of each folder under its name into `model`; returns `model`, which computes as its base.

    Raises what `load_adapter` raises; the model then is as it was.
    """
    require_no_adapters(model)
    read = {name: read_adapter(folder) for name, folder in folders.items()}
    parts = {}
    for name, stored in read.items():
        with naming(name):
            parts[name] = restore(model, stored)
    config = SeveralConfig(adapters={name: stored.config for name, stored in read.items()})
    return attach(model, config.group(parts))


@contextmanager
def using(model: Model, which: Which) -> Iterator[Model]:
    """Inside this context `model` computes with the adapters that `which` says. Contexts may nest.

    A name: that adapter. A list of names, one for each sample of the batch: each its own, None for the base alone. A
    mapping from names to weights: W + Σ wᵢ (Wᵢ − W) in each linear layer.

    Raises ValueError when the model has not several adapters, or none of a name.
    """
    layers = [layer for _, layer in _layers(model)]
    if isinstance(which, Mapping):
        which = dict(which)  # what the caller does to it later changes nothing
    elif which is not None and not isinstance(which, str):
        which = tuple(which)
    known = list(dict.fromkeys(name for layer in layers for name in layer.names))
    asked = [which] if which is None or isinstance(which, str) else list(which)
    if strangers := [name for name in asked if name is not None and name not in known]:
        raise ValueError(f"no adapter is called {strangers[0]!r}; this model has {known}")
    before = [layer.which for layer in layers]
    try:
        for layer in layers:
            layer.which = which
        yield model
    finally:
        for layer, one in zip(layers, before, strict=True):
            layer.which = one


def concatenate(model: Model, weights: Mapping[str, float]) -> tuple[Model, LoRAConfig]:
    """Replace several LoRA adapters by the one that is their weighted sum; returns `model` and the new config.

    Stacked ranks add updates up exactly: [w₁s₁B₁ w₂s₂B₂] [A₁; A₂] = w₁s₁B₁A₁ + w₂s₂B₂A₂. The new rank is the sum of the
    ranks and the scaling is 1. Dropout is left out.

    Raises ValueError when the model has not several adapters, none of a name, or a layer too small for the sum of the
    ranks; TypeError when one is no plain LoRA. The model then is as it was.
    """
    layers = list(_layers(model))
    if not weights:
        raise ValueError("weights is empty: name at least one adapter")
    with using(model, weights):  # checks the names
        pass
    configs = {name: layers[0][1].config.adapters[name] for name in weights}
    for name, config in configs.items():
        if type(config) not in (LoRAConfig, LoRAFAConfig):
            raise TypeError(f"only plain LoRA can be concatenated, {name!r} is a {type(config).__name__}")
        if config.modules_to_save:
            raise TypeError(f"{name!r} trains {config.modules_to_save} as a whole, and only plain LoRA can be added up")
    named = [(own_name(model, module), layer) for module, layer in layers]
    concerned = [(module, layer) for module, layer in named if not weights.keys().isdisjoint(layer.names)]
    rank = sum(max(_ranks(concerned, name)) for name in weights)
    sum_config = LoRAConfig(rank=rank, alpha=rank, targets=tuple(module for module, _ in concerned))
    for module, layer in concerned:
        with naming(module):
            sum_config.check(module, layer.base_layer)
    # all are made before the first is put in; a shared one is made once
    stacked = {layer: _stacked(layer, weights, sum_config) for layer in dict.fromkeys(layer for _, layer in layers)}
    for module, layer in layers:
        replace_module(model, module, stacked[layer])
    return model, sum_config


def _ranks(layers: Sequence[tuple[str, SeveralAdapters]], name: str) -> list[int]:
    """Those of the adapter called `name`, which may differ from layer to layer."""
    return [part.config.rank for _, layer in layers if isinstance(part := layer.get(name), LoRALinear)]


@torch.no_grad()
def _stacked(layer: SeveralAdapters, weights: Mapping[str, float], config: LoRAConfig) -> nn.Module:
    """One LoRA layer of all parts; ranks of adapters that leave this module alone stay zero. The base without parts."""
    parts = {name: layer.get(name) for name in weights if name in layer.names}
    if not parts:
        return layer.base_layer
    stacked = LoRALinear(layer.base_layer, config).train(layer.training)
    stacked.lora_A.zero_()
    start = 0
    for name, part in parts.items():
        assert isinstance(part, LoRALinear)
        ranks = slice(start, start := start + part.config.rank)
        stacked.lora_A[ranks] = part.lora_A
        stacked.lora_B[:, ranks] = weights[name] * part.scaling * part.lora_B
    return stacked


def _layers(model: nn.Module) -> Iterator[tuple[str, SeveralAdapters]]:
    found = [(name, layer) for name, layer in named_adapters(model) if isinstance(layer, SeveralAdapters)]
    if not found:
        raise ValueError("the model has not several adapters: load_adapters(model, {name: folder, …}) first")
    yield from found
