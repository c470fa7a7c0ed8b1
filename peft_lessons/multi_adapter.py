"""Several adapters on one base: switch between them, add them up, or give each sample of a batch its own.

The base's weights are there once. Each adapted layer holds an adapter of every name, and `using` says which computes.
Serving systems batch requests for many adapters in the same way (S-LoRA, arXiv:2311.03285). They add kernels that run
all the small products at once, where this code takes one adapter after the other.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from peft_lessons.checkpoints.files import StoredAdapter, read_adapter, restore, save_adapter
from peft_lessons.checks import check_count
from peft_lessons.exact import exact
from peft_lessons.linear import LinearAdapter
from peft_lessons.methods.combining import METHODS, OF_UPDATES, combined_factors, combined_updates
from peft_lessons.methods.lora import LoRAConfig, LoRALinear
from peft_lessons.methods.lora_fa import LoRAFAConfig
from peft_lessons.targets import Targets, own_name

Which = str | None | Sequence[str | None] | Mapping[str, float]


class SeveralAdapters(AdapterLayer):
    """Adapters of one module, of which `which` says who computes: None is the base. See `using`.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import BitFitConfig, LoRAConfig, add_adapter
        >>> model = add_adapter(nn.Sequential(nn.Linear(8, 4)), "french", LoRAConfig(rank=2, targets=("0",)))
        >>> model = add_adapter(model, "german", BitFitConfig(targets=("0",)))
        >>> type(model[0]).__name__, model[0].names
        ('SeveralAdapters', ('french', 'german'))
    """

    config: "SeveralConfig"

    def __init__(self, base_layer: nn.Module, config: "SeveralConfig", named: Mapping[str, AdapterLayer]) -> None:
        super().__init__(base_layer, config)
        self.names = tuple(named)
        self.adapters = nn.ModuleList(named.values())
        self.which: Which = None
        self.batch: Batch | None = None
        self.resting: set[nn.Parameter] = set()  # would train if their adapter were in use

    def get(self, name: str | None) -> nn.Module:
        """Return the adapter called `name`; the base when it is None, or when that adapter leaves this module alone."""
        return self.adapters[self.names.index(name)] if name in self.names else self.base_layer

    @property
    def named(self) -> dict[str, AdapterLayer]:
        return dict(zip(self.names, self.adapters, strict=True))  # type: ignore[arg-type]

    def use(self, which: Which, batch: "Batch | None" = None) -> None:
        """Compute with what `which` names from now on. The adapters that it does not name do not train meanwhile."""
        self.which, self.batch = which, batch
        for name, adapter in self.named.items():
            rests = which is not None and name not in _asked(which)
            for parameter in _own_parameters(adapter):
                if rests and parameter.requires_grad:
                    self.resting.add(parameter)
                elif not rests and parameter in self.resting:
                    self.resting.remove(parameter)
                else:
                    continue
                parameter.requires_grad_(not rests)

    def now(self) -> nn.Module:
        if self.enabled and (self.which is None or isinstance(self.which, str)):
            return self.get(self.which)
        return super().now()

    def adapted(self, *inputs: Any, **options: Any) -> Tensor:
        which = self.which
        if which is None or isinstance(which, str):
            return self.get(which)(*inputs, **options)
        if len(inputs) != 1 or options:
            raise TypeError(
                f"adapters of a {type(self.base_layer).__name__} are used alone: neither weighted nor in a mixed "
                "batch, as goes with modules that read one tensor"
            )
        return self._weighted(inputs[0], which) if isinstance(which, Mapping) else self._mixed(inputs[0])

    def merged(self) -> nn.Module:
        raise TypeError("several adapters cannot be folded into a plain layer: concatenate(model, weights) first")

    def _weighted(self, x: Tensor, weights: Mapping[str, float]) -> Tensor:
        """Compute what a layer with the weight W + Σ wᵢ (Wᵢ − W) gives, Wᵢ being that of adapter i."""
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

    def _mixed(self, x: Tensor) -> Tensor:
        assert self.batch is not None
        names = self.batch.names_of_rows(x)
        rows = {name: [row for row, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
        order = torch.tensor([row for group in rows.values() for row in group], device=x.device)
        return torch.cat([self.get(name)(x[group]) for name, group in rows.items()])[order.argsort()]


class Batch:
    """What the model was last given: so a layer knows which sample a row of its input belongs to."""

    def __init__(self, names: Sequence[str | None]) -> None:
        self.names = names  # of adapters, for each sample
        self.inside = 0  # modules that are computing, each inside of the one before
        self.shape: tuple[int, ...] = ()  # (samples, tokens), or (samples,) of a model that reads no sequences
        self.copied = {len(names)}  # batches in which each sample is there as often as the others, one after the other

    def watch(self, module: nn.Module) -> Iterator[Any]:
        """Note what `module` is given from now on; yields the handles of what has to be removed in the end."""
        yield module.register_forward_pre_hook(self._enter, with_kwargs=True)
        yield module.register_forward_hook(self._leave, always_call=True)

    def names_of_rows(self, x: Tensor) -> list[str | None]:
        """Return the name of the adapter of each row of `x`, a layer's input.

        Rows of single tokens are told apart only where all tokens of all samples are there.
        """
        shape = self.shape or x.shape[: max(1, x.ndim - 1)]
        samples, each = shape[0], shape[1] if x.ndim == 2 and len(shape) > 1 else 1
        if len(x) != samples * each:
            raise ValueError(
                f"{len(x)} rows of a batch of {' × '.join(map(str, shape))} cannot be told apart by sample, as a layer "
                "has to that gives each its own adapter: let it compute all tokens, or use one adapter for this layer"
            )
        if samples not in self.copied:
            raise ValueError(f"a batch of {samples} samples needs as many names, got {len(self.names)}")
        return [name for name in self.names for _ in range(samples // len(self.names) * each)]

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.inside += 1
        read = (*inputs, options.get("input_ids"), options.get("inputs_embeds"), *options.values())
        first = next((one for one in read if isinstance(one, Tensor)), None)
        if self.inside > 1 or first is None or first.ndim == 0:
            return
        is_sequence = first.ndim > 2 or (first.ndim == 2 and not first.is_floating_point())
        self.shape = tuple(first.shape[: 1 + is_sequence])
        if len(first) not in self.copied and len(first) % len(self.names) == 0:
            copies = first.unflatten(0, (len(self.names), -1))  # beams, say, which differ later on
            if torch.equal(copies, copies[:, :1].expand_as(copies)):
                self.copied.add(len(first))

    def _leave(self, *_: object) -> None:
        self.inside -= 1


def _own_parameters(adapter: AdapterLayer) -> list[nn.Parameter]:
    return [parameter for name, parameter in adapter.named_parameters() if not name.startswith("base_layer.")]


def _asked(which: Which) -> list[str | None]:
    return [which] if which is None or isinstance(which, str) else list(which)


@dataclass(frozen=True, kw_only=True)
class SeveralConfig(AdapterConfig):
    """The configs of several adapters, by their names. Each says where its own go.

    Attributes:
        adapters: The config of each adapter, by its name.

    Raises:
        ValueError: when there is none, or when a name is empty.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import BitFitConfig, LoRAConfig, SeveralConfig, inject
        >>> adapters = {"french": LoRAConfig(rank=2, targets=("0",)), "german": BitFitConfig(targets=("0",))}
        >>> inject(nn.Sequential(nn.Linear(8, 4)), SeveralConfig(adapters=adapters))[0].names
        ('french', 'german')
    """

    layer: ClassVar[type[AdapterLayer]] = SeveralAdapters
    saved_by: ClassVar[str] = "save_named_adapter(model, name, folder)"
    adapters: Mapping[str, AdapterConfig]
    targets: Targets = ()

    def __post_init__(self) -> None:
        if not self.adapters or not all(self.adapters):
            raise ValueError(f"adapters needs at least one name and no empty one, got {list(self.adapters)}")

    def modules(self, model: nn.Module) -> dict[nn.Module, str]:
        found = [config.modules(model) for config in self.adapters.values()]
        return {module: name for modules in found for module, name in modules.items()}

    def check_places(self, model: nn.Module) -> None:
        for own, config in self.adapters.items():
            with naming(own):
                config.check_places(model)

    def build(self, model: nn.Module) -> dict[nn.Module, AdapterLayer]:
        return {**self.group({own: config.build(model) for own, config in self.adapters.items()})}

    def group(self, parts: Mapping[str, Mapping[nn.Module, AdapterLayer]]) -> dict[nn.Module, SeveralAdapters]:
        """One layer for all adapters of a module, from each adapter's own."""
        return {
            module: SeveralAdapters(module, self, {own: part[module] for own, part in parts.items() if module in part})
            for module in dict.fromkeys(module for part in parts.values() for module in part)
        }


def load_adapters(model: Model, folders: Mapping[str, str | Path]) -> Model:
    """Load the adapter of each folder under its name into `model`; returns `model`, which computes as its base.

    Adapters that it has already under other names stay. After an error the model is as it was.

    Raises:
        ValueError: for a name that is taken, and as `load_adapter`, which raises FileNotFoundError and TypeError, too.

    Examples:
        >>> import tempfile
        >>> from torch import nn
        >>> from peft_lessons import BitFitConfig, inject, load_adapters, save_adapter
        >>> config = BitFitConfig(targets=("0",))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_adapter(inject(nn.Sequential(nn.Linear(8, 4)), config), config, folder)
        ...     model = load_adapters(nn.Sequential(nn.Linear(8, 4)), {"french": folder, "german": folder})
        >>> model[0].names
        ('french', 'german')
    """
    return _add(model, {name: read_adapter(folder) for name, folder in folders.items()})


def add_adapter(model: Model, name: str, adapter: AdapterConfig | str | Path) -> Model:
    """Put one more adapter beside those that `model` has, new for a config or from a folder; returns `model`.

    After an error the model is as it was.

    Raises:
        ValueError: for a name that is taken. What `inject` or `load_adapter` raises is raised, too.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import BitFitConfig, add_adapter
        >>> model = add_adapter(nn.Sequential(nn.Linear(8, 4)), "french", BitFitConfig(targets=("0",)))
        >>> add_adapter(model, "german", BitFitConfig(targets=("0",)))[0].names
        ('french', 'german')
    """
    return _add(model, {name: adapter if isinstance(adapter, AdapterConfig) else read_adapter(adapter)})


def remove_adapter(model: Model, name: str) -> Model:
    """Take the adapter called `name` out of `model`; returns `model`, without adapters if it was the last.

    Raises:
        ValueError: for a name that is not there or in use at the moment.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import BitFitConfig, add_adapter, remove_adapter
        >>> model = add_adapter(nn.Sequential(nn.Linear(8, 4)), "french", BitFitConfig(targets=("0",)))
        >>> remove_adapter(model, "french")
        Sequential(
          (0): Linear(in_features=8, out_features=4, bias=True)
        )
    """
    layers = _layers(model)
    _check_known(layers.values(), [name])
    if any(layer.which is not None and name in _asked(layer.which) for layer in layers.values()):
        raise ValueError(f"{name!r} is in use: leave `using` first")
    parts, configs = _parts_of(layers), _configs(layers.values())
    del parts[name], configs[name]
    with _taken_out(model, layers):
        _put_in(model, layers, parts, configs)
    return model


def save_named_adapter(model: nn.Module, name: str, folder: str | Path, base_model: str | None = None) -> Path:
    """Write the adapter called `name` to `folder` as `save_adapter` does; returns the folder.

    Raises:
        ValueError: for a name that is not there, and what `save_adapter` raises.

    Examples:
        >>> import tempfile
        >>> from torch import nn
        >>> from peft_lessons import BitFitConfig, add_adapter, save_named_adapter
        >>> model = add_adapter(nn.Sequential(nn.Linear(8, 4)), "french", BitFitConfig(targets=("0",)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(path.name for path in save_named_adapter(model, "french", folder).iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    layers = _layers(model)
    _check_known(layers.values(), [name])
    try:
        for module, layer in layers.items():
            replace_module(model, module, layer.get(name))
        return save_adapter(model, _configs(layers.values())[name], folder, base_model)
    finally:
        for module, layer in layers.items():
            replace_module(model, module, layer)


def _add(model: Model, new: Mapping[str, AdapterConfig | StoredAdapter]) -> Model:
    present = _found(model)
    parts, configs = _parts_of(present), _configs(present.values())
    if taken := [name for name in new if name in configs]:
        raise ValueError(f"the model has an adapter called {taken[0]!r} already; it has {list(configs)}")
    with _taken_out(model, present):
        require_no_adapters(model)
        for name, one in new.items():
            with naming(name):
                if isinstance(one, StoredAdapter):
                    parts[name], configs[name] = restore(model, one)
                else:
                    one.check_places(model)
                    parts[name], configs[name] = one.build(model), one
        _put_in(model, present, parts, configs)
    return model


def _parts_of(layers: Mapping[str, SeveralAdapters]) -> dict[str, dict[nn.Module, AdapterLayer]]:
    """Return the adapters of each name, by the modules that they adapt."""
    return {
        name: {layer.base_layer: layer.named[name] for layer in layers.values() if name in layer.names}
        for name in _configs(layers.values())
    }


@contextmanager
def _taken_out(model: nn.Module, layers: Mapping[str, SeveralAdapters]) -> Iterator[None]:
    """Put the bases of `layers` in their places inside this context. After an error the layers are back there."""
    try:
        for module, layer in layers.items():
            replace_module(model, module, layer.base_layer)
        yield
    except BaseException:
        for module, layer in layers.items():
            replace_module(model, module, layer)
        raise


def _put_in(
    model: nn.Module,
    before: Mapping[str, SeveralAdapters],
    parts: Mapping[str, Mapping[nn.Module, AdapterLayer]],
    configs: Mapping[str, AdapterConfig],
) -> None:
    """Put the adapters of `parts` into a model without any, to compute with what those `before` computed with."""
    layers = SeveralConfig(adapters=configs).group(parts) if configs else {}
    attach(model, layers)
    old = {layer.base_layer: layer for layer in before.values()}
    for base, layer in layers.items():
        if known := old.get(base):
            layer.enabled, layer.resting = known.enabled, known.resting
        for any_of_them in list(old.values())[:1]:  # all compute with the same
            layer.use(any_of_them.which, any_of_them.batch)


@contextmanager
def using(model: Model, which: Which) -> Iterator[Model]:
    """Let `model` compute with the adapters that `which` says inside this context. Contexts may nest.

    A name: that adapter. A list of names, one for each sample of the batch: each its own, None for the base alone;
    where generation starts with several copies of each (beams), they have its adapter. A mapping from names to weights:
    W + Σ wᵢ (Wᵢ − W) in each linear layer. Adapters that are not named do not train inside. With gradient checkpointing
    the backward pass belongs inside, too.

    Raises:
        ValueError: when the model has not several adapters, or none of a name.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import BitFitConfig, add_adapter, using
        >>> model = add_adapter(nn.Sequential(nn.Linear(8, 4)), "french", BitFitConfig(targets=("0",)))
        >>> _ = nn.init.ones_(model[0].get("french").bias_delta)
        >>> x = torch.ones(2, 8)
        >>> with using(model, ["french", None]):
        ...     mixed = model(x)
        >>> [torch.equal(ours, base) for ours, base in zip(mixed, model(x))]
        [False, False]
    """
    layers = _layers(model)
    if isinstance(which, Mapping):
        which = dict(which)  # what the caller does to it later changes nothing
    elif which is not None and not isinstance(which, str):
        which = tuple(which)
        if not which:
            raise ValueError("the list of names is empty: name an adapter, or None, for each sample of the batch")
    _check_known(layers.values(), _asked(which))
    before = {module: (layer.which, layer.batch) for module, layer in layers.items()}
    with ExitStack() as hooks:
        batch = None
        if isinstance(which, tuple):
            batch = Batch(which)
            for module in _around(model, layers):
                for handle in batch.watch(module):
                    hooks.callback(handle.remove)
        try:
            for layer in layers.values():
                layer.use(which, batch)
            yield model
        finally:
            for name, layer in _found(model).items():  # some may have been added or taken out
                layer.use(*before.get(name, (None, None)))


def _around(model: nn.Module, names: Mapping[str, nn.Module]) -> list[nn.Module]:
    """Return the modules that modules of these names lie in, `model` first, each once."""
    outer = dict.fromkeys(
        ".".join(parts[:i]) for parts in (name.split(".") for name in names if name) for i in range(len(parts))
    )
    return list(dict.fromkeys(model.get_submodule(name) for name in outer))


def _check_known(layers: Iterable[SeveralAdapters], asked: Iterable[str | None]) -> None:
    known = list(dict.fromkeys(name for layer in layers for name in layer.names))
    if strangers := [name for name in asked if name is not None and name not in known]:
        raise ValueError(f"no adapter is called {strangers[0]!r}; this model has {known}")


def _configs(layers: Iterable[SeveralAdapters]) -> dict[str, AdapterConfig]:
    return dict(next((layer.config.adapters for layer in layers), {}))


@exact()
def concatenate(model: Model, weights: Mapping[str, float]) -> tuple[Model, LoRAConfig]:
    """Replace several LoRA adapters by the one that is their weighted sum; returns `model` and the new config.

    Stacked ranks add updates up exactly: [w₁s₁B₁ w₂s₂B₂] [A₁; A₂] = w₁s₁B₁A₁ + w₂s₂B₂A₂. The new rank is the sum of the
    ranks and the scaling is 1. Dropout is left out. `combine` knows other ways.

    Raises:
        ValueError: when the model has not several adapters, none of a name, or a layer too small for the sum of the
            ranks.
        TypeError: when one is no plain LoRA.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, add_adapter, concatenate
        >>> model = nn.Sequential(nn.Linear(8, 4))
        >>> for name, rank in (("french", 1), ("german", 2)):
        ...     model = add_adapter(model, name, LoRAConfig(rank=rank, targets=("0",)))
        >>> model, config = concatenate(model, {"french": 0.5, "german": 0.5})
        >>> config.rank, config.scaling
        (3, 1.0)
    """
    ranks = _ranks(model, weights)
    sum_config = _joint_config(model, weights, sum(max(each) for each in ranks.values()))
    return _replace_all(model, lambda layer: _stacked(layer, weights, sum_config)), sum_config


@exact()
@torch.no_grad()
def combine(
    model: Model,
    weights: Mapping[str, float],
    method: str,
    *,
    density: float = 1.0,
    rank: int | None = None,
    seed: int = 0,
) -> tuple[Model, LoRAConfig]:
    """Replace several LoRA adapters by one that `method` makes of them; returns `model` and the new config.

    The methods are those of `methods.combining`. `density`, in (0, 1], is the share of entries that pruning and
    dropping leave. `rank` is that of a method with "svd" in its name, at most what the layers allow; if not given, the
    largest of the adapters'. Otherwise all have one rank, and keep it. `seed` decides which entries are dropped. The
    new scaling is 1. Dropout is left out.

    After an error the model is as it was.

    Raises:
        ValueError: for an unknown method, a density out of range, a rank where none can be chosen, ranks that
            differ, and what `concatenate` raises.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, add_adapter, combine
        >>> model = nn.Sequential(nn.Linear(8, 4))
        >>> for name in ("french", "german"):
        ...     model = add_adapter(model, name, LoRAConfig(rank=2, targets=("0",)))
        >>> model, config = combine(model, {"french": 1.0, "german": 1.0}, "ties", density=0.5)
        >>> config.rank, config.scaling
        (2, 1.0)
    """
    if method not in METHODS | OF_UPDATES:
        raise ValueError(f"method is {method!r}; possible: {', '.join(METHODS | OF_UPDATES)}, and concatenate()")
    if not 0 < density <= 1:
        raise ValueError(f"density is the share of entries that stay, in (0, 1]; got {density}")
    ranks = [rank for each in _ranks(model, weights).values() for rank in each]
    if method in METHODS:
        if rank is not None:
            raise ValueError(f"rank is for the methods {', '.join(OF_UPDATES)}; {method} keeps the adapters' own")
        if len(set(ranks)) > 1:
            given = list(dict.fromkeys(ranks))
            raise ValueError(f"{method} needs adapters of one rank, got {given}; possible: {', '.join(OF_UPDATES)}")
    elif rank is not None:
        check_count("rank", rank)
    config = _joint_config(model, weights, max(ranks) if rank is None else rank)
    generator = torch.Generator().manual_seed(seed)

    def make(layer: SeveralAdapters) -> nn.Module:
        parts = _parts(layer, weights)
        if not parts:
            return layer.base_layer
        one = LoRALinear(layer.base_layer, config).train(layer.training)
        if method in METHODS:
            scaled = [weights[name] * part.scaling for name, part in parts.items()]
            factors = [(part.lora_A, part.lora_B) for part in parts.values()]
            A, B = combined_factors(method, factors, scaled, density, generator)
        else:
            updates = [part.delta() for part in parts.values()]
            A, B = combined_updates(method, updates, [weights[name] for name in parts], config.rank, density, generator)
        one.lora_A.copy_(A)
        one.lora_B.copy_(B)
        return one

    return _replace_all(model, make), config


@torch.no_grad()
def _stacked(layer: SeveralAdapters, weights: Mapping[str, float], config: LoRAConfig) -> nn.Module:
    """One LoRA layer of all parts; ranks of adapters that leave this module alone stay zero. The base without parts."""
    parts = _parts(layer, weights)
    if not parts:
        return layer.base_layer
    stacked = LoRALinear(layer.base_layer, config).train(layer.training)
    stacked.lora_A.zero_()
    start = 0
    for name, part in parts.items():
        ranks = slice(start, start := start + len(part.lora_A))
        stacked.lora_A[ranks] = part.lora_A
        stacked.lora_B[:, ranks] = weights[name] * part.scaling * part.lora_B
    return stacked


def _ranks(model: nn.Module, names: Iterable[str]) -> dict[str, list[int]]:
    """Return the ranks of each adapter that `names` names, layer by layer. Raises as `concatenate`."""
    layers = _layers(model)
    if not names:
        raise ValueError("weights is empty: name at least one adapter")
    _check_known(layers.values(), names)
    ranks: dict[str, list[int]] = {}
    for name in names:
        config = layers[next(iter(layers))].config.adapters[name]
        if type(config) not in (LoRAConfig, LoRAFAConfig):
            raise TypeError(f"only plain LoRA can be concatenated, {name!r} is a {type(config).__name__}")
        parts = {module: layer.named[name] for module, layer in layers.items() if name in layer.names}
        for module, part in parts.items():
            if not isinstance(part, LoRALinear):
                raise TypeError(
                    f"only LoRA on linear layers can be added up, {name!r} has a {type(part).__name__} at {module}"
                )
        ranks[name] = [len(part.lora_A) for part in parts.values() if isinstance(part, LoRALinear)]
    return ranks


def _parts(layer: SeveralAdapters, names: Iterable[str]) -> dict[str, LoRALinear]:
    return {name: part for name in names if isinstance(part := layer.get(name), LoRALinear)}


def _joint_config(model: nn.Module, names: Iterable[str], rank: int) -> LoRAConfig:
    """Configure one adapter in the places of all, with scaling 1. Raises ValueError where the rank does not fit."""
    concerned = {own_name(model, module): layer for module, layer in _layers(model).items() if _parts(layer, names)}
    config = LoRAConfig(rank=rank, alpha=rank, targets=tuple(concerned))
    for module, layer in concerned.items():
        with naming(module):
            config.check(module, layer.base_layer)
    return config


def _replace_all(model: Model, make: Callable[[SeveralAdapters], nn.Module]) -> Model:
    """Replace each layer of several adapters by what `make` makes of it; returns `model`.

    All are made before the first is put in. A shared one is made once.
    """
    layers = _layers(model)
    made = {layer: make(layer) for layer in dict.fromkeys(layers.values())}
    for module, layer in layers.items():
        replace_module(model, module, made[layer])
    return model


def _layers(model: nn.Module) -> dict[str, SeveralAdapters]:
    if found := _found(model):
        return found
    raise ValueError("the model has not several adapters: load_adapters(model, {name: folder, …}) first")


def _found(model: nn.Module) -> dict[str, SeveralAdapters]:
    return {name: layer for name, layer in named_adapters(model) if isinstance(layer, SeveralAdapters)}
