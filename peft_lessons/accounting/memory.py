"""Bytes in training: weights, gradients, optimizer state and activations (arXiv:1910.02054, §3; arXiv:2305.14314, §3).

For P parameters of which T train, without activations:

    full fine-tuning, mixed precision       2P + 2P + 12P = 16P      weights, gradients; fp32 copy and two moments
    LoRA in fp32 on a bf16 base             2P + 16T                 4 + 4 + 8 for each trained number
    QLoRA                                   4.127/8 · P_linear + 2 · P_other + 16T

What torch holds beyond this between two steps (the last batch, its logits) is not counted, nor what a GPU's libraries
hold. On Hugging Face's benchmark of PEFT methods the former came to about 0.35 GB, whatever the method.
"""

from dataclasses import dataclass, replace
from math import prod

from peft_lessons.accounting.activations import Adapters, Attention, activations
from peft_lessons.accounting.modules import Module, Shapes, size
from peft_lessons.accounting.plan import Method, Plan, lay_out
from peft_lessons.accounting.shapes import ModelShape
from peft_lessons.accounting.storage import BF16, Dense, Storage, Stored

# ------------------------------------------------------------------------------------------------- how numbers train


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bytes that one trained number takes in each of its copies.

    Examples:
        >>> from peft_lessons.accounting import Precision
        >>> Precision(weight=2, gradient=2, moment=4, master=4).weight
        2
    """

    weight: int
    gradient: int
    moment: int  # each of the optimizer's
    master: int = 0  # an fp32 copy that the optimizer updates in place of the weight


TRAIN_FP32 = Precision(weight=4, gradient=4, moment=4)
TRAIN_MIXED = Precision(weight=2, gradient=2, moment=4, master=4)
TRAIN_BF16_FP32_MOMENTS = Precision(weight=2, gradient=2, moment=4)
TRAIN_BF16 = Precision(weight=2, gradient=2, moment=2)
"""With AdamW these are 16, 16, 12 and 8 bytes."""


@dataclass(frozen=True)
class Optimizer:
    """How many numbers torch's optimizer keeps for each that trains, and whether it counts steps for each tensor.

    State is made at the first step, for tensors with a gradient only: frozen weights have none.

    Examples:
        >>> from peft_lessons.accounting import TRAIN_FP32, Optimizer
        >>> adam = Optimizer("Adam", moments=2, counts_steps=True)
        >>> adam.nbytes({"lora_A": (8, 64)}, TRAIN_FP32)  # two moments in fp32, and one count of steps
        4100
    """

    name: str
    moments: int
    counts_steps: bool

    def nbytes(self, trained: Shapes, precision: Precision) -> int:
        counters = 4 * len(trained) if self.counts_steps else 0  # fp32 scalars
        return size(trained) * (self.moments * precision.moment + precision.master) + counters


ADAMW = Optimizer("AdamW", moments=2, counts_steps=True)
SGD_MOMENTUM = Optimizer("SGD with momentum", moments=1, counts_steps=False)
SGD = Optimizer("SGD", moments=0, counts_steps=False)


# ---------------------------------------------------------------------------------------------------------- the sum


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes, by what they hold.

    Examples:
        >>> from peft_lessons.accounting import Memory
        >>> Memory(base=100, adapter=4, gradients=4, optimizer=8).total
        116
    """

    base: int  # the model's own weights
    adapter: int  # what a method puts beside them, trained or not
    gradients: int
    optimizer: int
    activations: int = 0

    @property
    def weights(self) -> int:
        return self.base + self.adapter

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def model_states(
    shape: ModelShape,
    method: Method,
    *,
    precision: Precision,
    storage: Storage | None = None,
    optimizer: Optimizer = ADAMW,
) -> Memory:
    """Count what is held between two steps: all but activations.

    `storage` is that of frozen linear layers in the blocks: if it is not given, as the checkpoint stores them, which is
    bf16 unless its config says otherwise. Embeddings, norms, biases, routers and the head stay dense: in `storage` when
    that is dense itself, else in bf16, as QLoRA leaves them. So do stacks of experts, which are no linear layers, but
    in a checkpoint that has quantized them. What trains is stored as `precision` says, and so is what a method keeps
    frozen beside the model.

    Raises:
        ValueError: as `lay_out`; for a `storage` other than that of a quantized checkpoint, and for a method that
            trains what is quantized there.

    Examples:
        >>> from peft_lessons.accounting import TRAIN_MIXED, FullFineTuning, model_shape, model_states
        >>> shape = model_shape("GPT-2 small")
        >>> round(model_states(shape, FullFineTuning(), precision=TRAIN_MIXED).total / shape.parameters, 2)
        16.0
    """
    plan = lay_out(shape, method)
    trained = plan.all_trained
    added = size(plan.adapter_trained) + size(plan.adapter_frozen)
    return Memory(
        base=_base_bytes(plan, _stored(shape, storage)) + size(plan.own_trained) * precision.weight,
        adapter=added * precision.weight,
        gradients=size(trained) * precision.gradient,
        optimizer=optimizer.nbytes(trained, precision),
    )


def _stored(shape: ModelShape, storage: Storage | None) -> Stored:
    stored = shape.stored
    if storage is None:
        return stored or Stored(BF16)
    if stored is not None and storage != stored.storage:
        raise ValueError(
            f"storage is {storage.name!r}, but this checkpoint's weights are stored as {stored.storage.name!r}: leave "
            "storage out, or take the config of the model that was quantized"
        )
    return stored or Stored(storage, experts=False)


def _base_bytes(plan: Plan, stored: Stored) -> int:
    """Bytes of the model's own weights that do not train."""
    dense = stored.storage if isinstance(stored.storage, Dense) else BF16
    total = 0
    for module in plan.shape.modules:
        matrices = module.matrices if _is_quantized(module, stored) else []
        if module.name in plan.own:
            if plan.shape.stored and matrices:
                raise ValueError(f"{module.name} cannot train: the checkpoint stores it as {stored.storage.name!r}")
            continue
        total += module.count * sum(stored.storage.nbytes(*matrix) for matrix in matrices)
        total += dense.nbytes(1, module.parameters - module.count * sum(map(prod, matrices)))
    return total


def _is_quantized(module: Module, stored: Stored) -> bool:
    quantizable = module.kind == "linear" or (module.kind == "experts" and stored.experts)
    return quantizable and module.layer is not None and stored.holds(module.name)


def training_memory(
    shape: ModelShape,
    method: Method,
    *,
    batch: int,
    tokens: int,
    precision: Precision,
    storage: Storage | None = None,
    optimizer: Optimizer = ADAMW,
    compute: Dense = BF16,
    attention: Attention = "flash",
    adapters: Adapters = "ours",
    checkpointing: bool = False,
) -> Memory:
    """Count what is held in a step at most: `model_states`, gradients included, and the `activations`, in `compute`.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import NF4_DOUBLE, TRAIN_FP32, model_shape, training_memory
        >>> shape, settings = model_shape("Llama-3.1-8B"), {"batch": 1, "tokens": 512, "precision": TRAIN_FP32}
        >>> memory = training_memory(shape, LoRAConfig(rank=8), storage=NF4_DOUBLE, **settings)
        >>> round(memory.base / 1e9, 1), round(memory.optimizer / 1e9, 1)
        (5.7, 0.2)
    """
    states = model_states(shape, method, precision=precision, storage=storage, optimizer=optimizer)
    kept = activations(
        shape,
        method,
        batch=batch,
        tokens=tokens,
        bytes_per_number=compute.bytes_per_weight,
        attention=attention,
        adapters=adapters,
        checkpointing=checkpointing,
    )
    return replace(states, activations=kept.total)
