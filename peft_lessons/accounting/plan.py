"""Where a method goes in a model, and what a backward pass then has to reach.

Beside adapters there are the contrasts that train the model's own weights, as `methods.partial` does.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from peft_lessons.accounting.adapter_costs import AdapterCosts, adapter_costs, parameter_costs
from peft_lessons.accounting.modules import Kind, Module, Role, Shapes, size
from peft_lessons.accounting.shapes import ModelShape
from peft_lessons.adapters import AdapterConfig
from peft_lessons.biases import BiasesConfig
from peft_lessons.checks import check_count
from peft_lessons.methods.bottleneck import ParallelAdapterConfig, SerialAdapterConfig
from peft_lessons.methods.layer_norm import LayerNormTuningConfig
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.prefix import PrefixTuningConfig
from peft_lessons.methods.prompt import PromptTuningConfig
from peft_lessons.methods.registry import CONFIGS
from peft_lessons.methods.vera import VeRAConfig
from peft_lessons.targets import matches, quoted

LINEAR: tuple[Kind, ...] = ("linear", "slice")


@dataclass(frozen=True)
class FullFineTuning:
    """Every parameter trains.

    Examples:
        >>> from peft_lessons.accounting import FullFineTuning, model_shape, trained_parameters
        >>> trained_parameters(model_shape("GPT-2 small"), FullFineTuning())
        124439808
    """


@dataclass(frozen=True)
class HeadOnly:
    """Only the output head trains; one that is tied to the embedding gets its own copy first.

    Examples:
        >>> from peft_lessons.accounting import HeadOnly, model_shape, trained_parameters
        >>> trained_parameters(model_shape("GPT-2 small"), HeadOnly())
        38597376
    """


@dataclass(frozen=True)
class LastLayers:
    """Only the last `count` blocks train, not the final norm.

    Raises:
        ValueError: for a count below 1.

    Examples:
        >>> from peft_lessons.accounting import LastLayers, model_shape, trained_parameters
        >>> trained_parameters(model_shape("GPT-2 small"), LastLayers(2))
        14175744
    """

    count: int

    def __post_init__(self) -> None:
        check_count("count", self.count)


Method: TypeAlias = AdapterConfig | FullFineTuning | HeadOnly | LastLayers


@dataclass(frozen=True)
class Plan:
    """A method laid out over a model.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import Plan, lay_out, model_shape
        >>> plan = lay_out(model_shape("Llama-3.1-8B"), LoRAConfig(rank=8, targets=("q_proj",)))
        >>> isinstance(plan, Plan), len(plan.modules)
        (True, 32)
    """

    shape: ModelShape
    modules: Mapping[str, AdapterCosts] = field(default_factory=dict)  # by the name of the module that is adapted
    trained: Shapes = field(default_factory=dict)  # new and trained, but in no single module
    frozen: Shapes = field(default_factory=dict)  # new and shared by all modules
    own: frozenset[str] = frozenset()  # names of modules whose own weights train
    prompt: int = 0  # tokens in front of every sequence
    prefix: int = 0  # keys and values in front of every sequence, in each layer
    drops: bool = False  # whether adapters drop numbers of their input in training

    @property
    def adapter_trained(self) -> dict[str, tuple[int, ...]]:
        """New trained tensors: name → shape."""
        return dict(self.trained) | _named(self.modules, lambda adapter: adapter.trained)

    @property
    def adapter_frozen(self) -> dict[str, tuple[int, ...]]:
        """New frozen tensors, which are stored but get no gradient and no optimizer state."""
        return dict(self.frozen) | _named(self.modules, lambda adapter: adapter.frozen)

    @property
    def own_trained(self) -> dict[str, tuple[int, ...]]:
        """The model's own tensors that train."""
        modules = (module for module in self.shape.modules if module.name in self.own)
        return {name: shape for module in modules for name, shape in module.tensors.items()}

    @property
    def all_trained(self) -> dict[str, tuple[int, ...]]:
        return self.own_trained | self.adapter_trained


def _named(modules: Mapping[str, AdapterCosts], part: Callable[[AdapterCosts], Shapes]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{key}": shape for name, adapter in modules.items() for key, shape in part(adapter).items()}


def lay_out(shape: ModelShape, method: Method) -> Plan:
    """Where a method goes in a model.

    Raises:
        ValueError: when a target matches nothing (default targets are Llama's names: GPT-2 and RoBERTa need their
            own, such as `shape.linear_targets`), and for a rank, block or count that does not fit.
        TypeError: for a method without a formula.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import lay_out, model_shape
        >>> list(lay_out(model_shape("GPT-2 small"), LoRAConfig(targets=("c_fc",))).modules)[:2]
        ['transformer.h.0.mlp.c_fc', 'transformer.h.1.mlp.c_fc']
    """
    match method:
        case FullFineTuning():
            return Plan(shape, own=frozenset(module.name for module in shape.modules))
        case HeadOnly():
            heads = shape.select(("lm_head",), "linear")
            copies = {f"{m.name}.weight": (m.out_features, m.in_features) for m in heads if m.tied}
            return Plan(shape, trained=copies, own=frozenset(module.name for module in heads))
        case LastLayers(count):
            if count > shape.num_hidden_layers:
                raise ValueError(f"the model has {shape.num_hidden_layers} blocks; asked to train the last {count}")
            first = shape.num_hidden_layers - count
            return Plan(shape, own=frozenset(m.name for m in shape.modules if m.layer is not None and m.layer >= first))
        case PromptTuningConfig(tokens=n, targets=(target, *_)):
            return Plan(shape, trained={f"{target}.prompt": (n, shape.hidden_size)}, prompt=n)
        case PrefixTuningConfig(tokens=n, targets=(target, *_)):
            if shape.latent:
                raise ValueError(f"a prefix of {shape.model_type}'s latent keys and values is not counted here")
            per_token = (shape.num_hidden_layers, 2, shape.num_key_value_heads, shape.head_dim)
            return Plan(shape, trained={f"{target}.prefix": (n, *per_token)}, prefix=n)
        case AdapterConfig():
            biases = isinstance(method, BiasesConfig) and method.bias != "none"
            beside = method.modules_to_save or method.trainable_tokens or biases
            if not isinstance(method.targets, tuple) or method.exclude or method.layers or beside:
                raise TypeError(
                    "only methods with names as targets are counted, without exclude, layers, or anything that trains "
                    f"beside them; got {method}"
                )
            modules = shape.select(method.targets, *_kinds(method))
            placed, held = {m.name: adapter_costs(method.at(m.name), m) for m in modules}, _parameters(shape, method)
            if twice := [name for name in held if name in placed]:
                raise ValueError(
                    f"{twice[0]} is meant by targets, and its parameter by target_parameters: name it once"
                )
            placed |= held
            return Plan(shape, placed, frozen=_shared(method, modules), drops=getattr(method, "dropout", 0) > 0)
    possible = sorted(("FullFineTuning", "HeadOnly", "LastLayers", *CONFIGS))
    raise TypeError(f"{type(method).__name__} is no method; possible: {', '.join(possible)}")


def lay_out_step(shape: ModelShape, method: Method) -> Plan:
    """As `lay_out`, for what is counted of a whole step. Raises TypeError for `target_parameters`, which are not."""
    plan = lay_out(shape, method)
    if strange := [name for name, adapter in plan.modules.items() if adapter.adds_up_weights]:
        raise TypeError(
            f"operations and activations are not counted for target_parameters, as in {strange[0]}: only what trains, "
            "with trained_parameters and model_states"
        )
    return plan


def _parameters(shape: ModelShape, config: AdapterConfig) -> dict[str, AdapterCosts]:
    """What is added to modules for parameters that they hold. Raises ValueError for a name that matches none."""
    if not isinstance(config, LoRAConfig):
        return {}
    tensors = [name for module in shape.modules for name in module.tensors]
    if missing := [one for one in config.target_parameters if not any(matches(name, one) for name in tensors)]:
        raise ValueError(f"no parameter ends with {quoted(missing)}; {shape.model_type} has {quoted(tensors)}")
    placed = {module.name: parameter_costs(config, module) for module in shape.modules}
    return {name: adapter for name, adapter in placed.items() if adapter is not None}


def _kinds(config: AdapterConfig) -> tuple[Kind, ...]:
    if isinstance(config, LayerNormTuningConfig):
        return ("norm",)
    if isinstance(config, SerialAdapterConfig | ParallelAdapterConfig):
        return (*LINEAR, "block")
    return LINEAR


def _shared(config: AdapterConfig, modules: list[Module]) -> Shapes:
    if not isinstance(config, VeRAConfig):
        return {}
    return {
        "vera_A": (config.rank, max(m.in_features for m in modules)),
        "vera_B": (max(m.out_features for m in modules), config.rank),
    }


@dataclass(frozen=True)
class Visit:
    """One module in a forward pass, and what backward will be asked of it."""

    module: Module
    input_gradient: bool  # something before it trains, so backward needs the gradient of its input
    trains: bool  # its own weights train
    adapter: AdapterCosts | None

    @property
    def output_gradient(self) -> bool:
        return self.input_gradient or self.trains or self.adapter is not None


def visits(plan: Plan) -> Iterator[Visit]:
    """Yield the modules in order of the forward pass; backward goes no further down than the first that trains."""
    gradient = bool(plan.prompt)  # whether what trains has been met
    read: dict[tuple[int | None, str], bool] = {}  # by layer: whether what its modules read has a gradient
    for module in plan.shape.modules:
        if plan.prefix and module.role == "output":
            gradient = True  # the attention of this layer has read trained keys and values
        # those that read the same input as a module before them know no more than that did
        before = read.setdefault((module.layer, module.reads), gradient) if module.reads else gradient
        visit = Visit(module, before, module.name in plan.own, plan.modules.get(module.name))
        if module.role:
            read[module.layer, module.role] = visit.output_gradient
        gradient = gradient or visit.output_gradient
        yield visit


def by_layer(plan: Plan) -> dict[int | None, list[Visit]]:
    """Return the visits in each layer's block, and under None those outside of all blocks."""
    layers: dict[int | None, list[Visit]] = {}
    for visit in visits(plan):
        layers.setdefault(visit.module.layer, []).append(visit)
    return layers


def check_length(plan: Plan, tokens: int) -> int:
    """Tokens that the model reads for a text of `tokens`, a prompt before them.

    Raises:
        ValueError: where a table of positions ends before; warns where positions are turned, which goes on beyond
            what the model has seen.
    """
    shape, length = plan.shape, plan.prompt + tokens
    if length > shape.longest_text:
        message = f"{length:,} tokens; this {shape.model_type} was made for at most {shape.longest_text:,}"
        if shape.architecture.learned_positions:
            raise ValueError(f"{message}, and its table of positions has no row for more")
        warnings.warn(f"{message} (max_position_embeddings); the count is of a model made longer", stacklevel=3)
    return length


def attention_gradients(plan: Plan, layer: list[Visit]) -> tuple[bool, bool, bool]:
    """Return whether backward needs the gradient of a layer's queries, keys and values, as attention reads them."""

    def has(*roles: Role) -> bool:
        return any(visit.output_gradient for visit in layer if visit.module.role in roles)

    return (
        has("query", "query_norm", "query_key_value"),
        has("key", "key_norm", "key_value", "query_key_value") or plan.prefix > 0,
        has("value", "key_value", "query_key_value") or plan.prefix > 0,
    )


def trained_parameters(shape: ModelShape, method: Method) -> int:
    """How many numbers train.

    Raises:
        ValueError: as `lay_out`, which raises TypeError, too.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import model_shape, trained_parameters
        >>> trained_parameters(model_shape("Llama-3.1-8B"), LoRAConfig(rank=8, targets=("q_proj", "v_proj")))
        3407872
    """
    return size(lay_out(shape, method).all_trained)


def parameter_break_even_rank(d_in: int, d_out: int) -> float:
    """Return the rank at which LoRA trains as many numbers as the matrix has: r (d_in + d_out) = d_in · d_out.

    Examples:
        >>> from peft_lessons.accounting import parameter_break_even_rank
        >>> parameter_break_even_rank(600, 600)
        300.0
    """
    check_count("d_in", d_in)
    check_count("d_out", d_out)
    return d_in * d_out / (d_in + d_out)
