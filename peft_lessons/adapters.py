"""Adapters: small trainable modules around frozen layers.

A method is one frozen config (where, how much) and one adapter layer (what it computes). `inject` puts the layers
into a model, `merge` folds them away again. The model's own code never changes, and nothing is switched inside
`forward`, `train` or `eval`.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from peft_lessons.bases import dtype_of, is_linear, is_quantized
from peft_lessons.exact import exact
from peft_lessons.low_rank import is_untouched
from peft_lessons.targets import Where

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(Where):
    """Where a method goes. Each method's config adds how much.

    Examples:
        >>> from peft_lessons import AdapterConfig, BitFitConfig
        >>> issubclass(BitFitConfig, AdapterConfig), BitFitConfig.layer.__name__
        (True, 'BitFitLinear')
    """

    layer: ClassVar[type["AdapterLayer"]]
    saved_by: ClassVar[str] = "save_adapter(model, config, folder)"

    def at(self, name: str) -> "AdapterConfig":
        """Return the config of the adapter at the module called `name`. Most methods have the same everywhere."""
        return self

    def wrap(self, name: str, base_layer: nn.Module) -> "AdapterLayer":
        """Build the adapter for the module called `name`."""
        return self.layer(base_layer, self.at(name))

    def check(self, name: str, base_layer: nn.Module) -> None:
        """Raise ValueError or TypeError for what can be computed, but makes no sense to train.

        `inject` asks. `load_adapter` does not: what a file holds was trained.
        """

    def check_places(self, model: nn.Module) -> None:
        """`check` every module of `model` that this config means."""
        for module, name in self.modules(model).items():
            if not self.trains_whole(name) and not self.trained_ids(name):
                with naming(name):
                    self.check(name, module)

    def connect(self, layers: list["AdapterLayer"]) -> None:
        """Give the adapters of one model what they share. Most methods share nothing."""

    @exact()
    def build(self, model: nn.Module) -> dict[nn.Module, "AdapterLayer"]:
        """Build a new adapter for each module of `model` that this config means. The model stays as it is."""
        layers: dict[nn.Module, AdapterLayer] = {}
        for module, name in self.modules(model).items():
            with naming(name):
                if ids := self.trained_ids(name):
                    layers |= trained_rows(model, module, self.at(name), ids)
                elif self.trains_whole(name):
                    layers[module] = TrainedWhole(module, self.at(name))
                else:
                    layers[module] = self.wrap(name, module)
        self.connect(list(layers.values()))
        return layers


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of a module before the message of an error."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


class AdapterLayer(nn.Module):
    """A frozen `base_layer` and what a method adds to it.

    A method writes two functions: `adapted(x)`, the cheap forward pass in training, and `merged()`, a new plain layer
    that computes the same. One contract test says that they agree.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import AdapterLayer, LoRAConfig, inject
        >>> model = inject(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), LoRAConfig(rank=2, targets=("0",)))
        >>> [name for name, module in model.named_modules() if isinstance(module, AdapterLayer)]
        ['0']
        >>> model[0].base_layer
        Linear(in_features=8, out_features=4, bias=True)
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
        """Return the "weight" or "bias" of `merged`."""
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
        """Return the module that computes at the moment: the base while this adapter is switched off."""
        return self if self.enabled else self.base_layer

    def new_parameter(self, *shape: int) -> nn.Parameter:
        """Make a trainable tensor of zeros on the base's device, in fp32, or in fp64 over an fp64 base.

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


class ReadThrough(AdapterLayer):
    """An adapter through which the model's code reads what else its module has, such as a norm's `eps`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":  # while a copy or pickle is being made, there is none
                raise
            return getattr(self.base_layer, name)


class TrainedWhole(AdapterLayer):
    """A trained copy of a whole module, such as a new classifier, beside the module as it was.

    The copy is in fp32 or higher and computes in the module's dtype. Its attributes are read through this layer.

    Raises:
        TypeError: when the module holds codes, or nothing that could train.
    """

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        super().__init__(base_layer, config)
        parameters = list(base_layer.parameters())
        codes = any(is_quantized(part) for part in base_layer.modules())
        if codes or not parameters or not all(parameter.is_floating_point() for parameter in parameters):
            raise TypeError(
                f"{type(base_layer).__name__} cannot train as a whole: it has quantized weights, or no weights at all"
            )
        self.trained = copy.deepcopy(base_layer).requires_grad_(True)
        for parameter in self.trained.parameters():
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))

    def adapted(self, *inputs: Any, **options: Any) -> Tensor:
        return functional_call(self.trained, self._in_base_dtypes(), inputs, options)

    def merged(self) -> nn.Module:
        """Build a new frozen module of the same kind with what was trained, in the base's dtypes."""
        module = copy.deepcopy(self.trained).requires_grad_(False).train(self.training)
        for name, parameter in self._in_base_dtypes().items():
            module.get_parameter(name).data = parameter.detach().clone()
        return module

    def merged_tensor(self, name: str) -> Tensor:
        if (tensor := self._in_base_dtypes().get(name)) is None:
            raise TypeError(f"{type(self.trained).__name__} has no {name} that trains")
        return tensor

    def _in_base_dtypes(self) -> dict[str, Tensor]:
        dtypes = {name: parameter.dtype for name, parameter in self.base_layer.named_parameters()}
        return {name: parameter.to(dtypes[name]) for name, parameter in self.trained.named_parameters()}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("base_layer", "trained"):  # while a copy or pickle is being made, there is neither
                raise
            return getattr(self.trained if self.enabled else self.base_layer, name)


class TrainedRows(AdapterLayer):
    """Some rows of an embedding, trained in place of its own. int64 ids (…,) → (…, embedding_dim).

    Given `rows` are those of another embedding, to whose weight this module's is tied: in a linear layer they give the
    outputs of these tokens.

    Raises:
        TypeError: for a module that is neither.
        ValueError: for tokens that it has not, or twice.
    """

    base_layer: nn.Embedding | nn.Linear
    ids: Tensor  # int64 (rows,)

    def __init__(
        self, base_layer: nn.Module, config: AdapterConfig, ids: tuple[int, ...], rows: nn.Parameter | None = None
    ) -> None:
        if type(base_layer) not in (nn.Embedding, nn.Linear) or getattr(base_layer, "max_norm", None) is not None:
            raise TypeError(f"only rows of a plain nn.Embedding train, got {type(base_layer).__name__}")
        super().__init__(base_layer, config)
        count = len(self.base_layer.weight)
        if len(set(ids)) < len(ids) or not all(0 <= one < count for one in ids):
            raise ValueError(f"trainable_tokens must be different numbers below {count}, got {ids}")
        self.register_buffer("ids", torch.tensor(ids, device=self.device), persistent=False)
        trained = self.base_layer.weight.detach()[self.ids].to(self.adapter_dtype)
        self.rows = nn.Parameter(trained) if rows is None else rows
        self.tied = rows is not None

    def adapted(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        if isinstance(self.base_layer, nn.Linear):
            bias = None if self.base_layer.bias is None else self.base_layer.bias[self.ids]
            return y.index_copy(-1, self.ids, F.linear(x, self.rows.to(x.dtype), bias).to(y.dtype))
        found = x[..., None] == self.ids  # (…, rows)
        return torch.where(found.any(-1, keepdim=True), self.rows[found.int().argmax(-1)].to(y.dtype), y)

    def merged_tensor(self, name: str) -> Any:
        tensor = getattr(self.base_layer, name)
        return tensor.index_copy(0, self.ids, self.rows.to(tensor.dtype)) if name == "weight" else tensor

    def merged(self) -> nn.Module:
        module = copy.deepcopy(self.base_layer).requires_grad_(False).train(self.training)
        module.weight.data[self.ids] = self.rows.detach().to(module.weight.dtype)
        return module


def with_parameters(module: Model, tensors: Mapping[str, Tensor]) -> Model:
    """Return a frozen copy of `module` with `tensors` for its own parameters of these names; it shares all else."""
    changed = copy.copy(module)
    new = {name: nn.Parameter(tensor.detach(), requires_grad=False) for name, tensor in tensors.items()}
    changed._parameters, changed._modules = {**module._parameters, **new}, {**module._modules}
    return changed


def trained_rows(
    model: nn.Module, embedding: nn.Module, config: AdapterConfig, ids: tuple[int, ...]
) -> dict[nn.Module, AdapterLayer]:
    """Build new adapters for an embedding, and for each head or embedding of `model` whose weight is tied to it."""
    first = TrainedRows(embedding, config, ids)
    kinds = (nn.Linear, nn.Embedding)
    tied = [m for m in model.modules() if isinstance(m, kinds) and m is not embedding and m.weight is embedding.weight]
    return {embedding: first, **{module: TrainedRows(module, config, ids, first.rows) for module in tied}}


def inject(model: Model, config: AdapterConfig) -> Model:
    """Freeze `model` and wrap each module that `config` means, in place; returns `model`.

    A module that is registered under several names gets one adapter, shared like the module itself. On any error the
    model is left as it was.

    Raises:
        ValueError: when a target matches nothing (the message lists what there is), when one lies inside of
            another, when the rank does not fit, and when the model has adapters already.
        TypeError: when a target is of a kind that the method cannot adapt.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, inject
        >>> model = nn.ModuleDict({"q_proj": nn.Linear(8, 4), "k_proj": nn.Linear(8, 4)})
        >>> inject(model, LoRAConfig(rank=2, targets=("q_proj",))) is model
        True
        >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        ['q_proj.lora_A', 'q_proj.lora_B']
    """
    require_no_adapters(model)
    config.check_places(model)
    return attach(model, config.build(model))


def require_no_adapters(model: nn.Module) -> None:
    if present := [name for name, _ in named_adapters(model)]:
        raise ValueError(f"the model has adapters already ({present[0]} …): merge(model) first, or load the base anew")


def attach(model: Model, layers: Mapping[nn.Module, AdapterLayer]) -> Model:
    """Freeze `model` and put each of `layers` in the place of the module that it adapts; returns `model`.

    Raises:
        ValueError: when one of them lies inside of another; the model then is as it was, as it is when interrupted.
    """
    places = [(name, module) for name, module in model.named_modules(remove_duplicate=False) if module in layers]
    for name, module in places:
        if inside := [part for part, inner in module.named_modules() if part and inner in layers]:
            inner_name = f"{name}.{inside[0]}"
            raise ValueError(f"{inner_name} lies inside of {name}, and both would be adapted: name one of them")
    trained = trainable_parameters(model)
    try:
        model.requires_grad_(False)
        for name, module in places:
            replace_module(model, name, layers[module].train(module.training))
    except BaseException:
        for name, module in places:
            replace_module(model, name, module)
        for parameter in trained:
            parameter.requires_grad_(True)
        raise
    return model


@exact()
def merge(model: Model) -> Model:
    """Replace each adapter by the plain layer that computes the same, in place; returns `model`.

    Sums are in fp32 and rounded once to the base's dtype. A quantized base becomes a dense layer of the dtype that it
    was quantized from. (Int8 does not say which: it is that of the bias, else fp32, and the model may want a cast.) The
    base weights are not written to, so a weight that is tied to another stays as it is there. Nothing starts to train:
    the plain layers are frozen. When `model` itself is an adapter layer, there is no place in it to change: returns the
    plain layer.

    After an error the model is as it was.

    Raises:
        TypeError: when a method cannot be folded or a base computes in a way of its own.
        ValueError: when there is no adapter, when one has hooks, and when a sum is NaN or infinite.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, inject, merge
        >>> model = inject(nn.Sequential(nn.Linear(8, 4)), LoRAConfig(rank=2, targets=("0",)))
        >>> merge(model)
        Sequential(
          (0): Linear(in_features=8, out_features=4, bias=True)
        )
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

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, inject, remove_adapters
        >>> linear = nn.Linear(8, 4)
        >>> model = inject(nn.Sequential(linear), LoRAConfig(rank=2, targets=("0",)))
        >>> remove_adapters(model)[0] is linear
        True
    """
    for name, layer in list(named_adapters(model)):
        model = replace_module(model, name, layer.base_layer)
    return model


@contextmanager
def adapters_disabled(model: Model) -> Iterator[Model]:
    """Switch off all adapters inside this context: `model` computes exactly what its base computes. Contexts may nest.

    Raises:
        ValueError: when there is no adapter: a merged model cannot be switched back.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import BitFitConfig, adapters_disabled, inject
        >>> x, model = torch.ones(8), nn.Sequential(nn.Linear(8, 4))
        >>> before = model(x)
        >>> _ = nn.init.ones_(inject(model, BitFitConfig(targets=("0",)))[0].bias_delta)
        >>> torch.equal(model(x), before)
        False
        >>> with adapters_disabled(model):
        ...     torch.equal(model(x), before)
        True
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
    """Return the parameters that an optimizer should get: those that require a gradient, each once.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, inject, trainable_parameters
        >>> model = inject(nn.Sequential(nn.Linear(8, 4)), LoRAConfig(rank=2, targets=("0",)))
        >>> optimizer = torch.optim.AdamW(trainable_parameters(model), lr=1e-3)
        >>> sum(parameter.numel() for parameter in trainable_parameters(model))
        24
    """
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return every adapter's parameters and buffers, by name, without those of its base layer. They are not copies.

    A shared adapter comes under each of its names. Beside the base weights this is the whole adapted model, as long as
    nothing else was trained.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, adapter_state_dict, inject
        >>> model = inject(nn.Sequential(nn.Linear(8, 4)), LoRAConfig(rank=2, targets=("0",)))
        >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
        {'0.lora_A': (2, 8), '0.lora_B': (4, 2)}
    """
    return {
        f"{name}.{key}": tensor
        for name, layer in named_adapters(model)
        for key, tensor in layer.state_dict().items()
        if "base_layer" not in key.split(".")
    }


def load_adapter_state_dict(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy `state` into the adapters of `model`.

    Raises:
        ValueError: unless names and shapes are exactly equal.
    """
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


def replace_module(model: Model, name: str, module: nn.Module) -> Model:
    """Put `module` in the place `name` of `model`; returns the model. Without a name the module is the whole model."""
    if not name:
        return cast(Model, module)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
    return model
