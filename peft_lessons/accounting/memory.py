"""Bytes in training: weights, gradients, optimizer state and activations (arXiv:1910.02054, §3; arXiv:2305.14314, §3).

For P parameters of which T train, without activations:

    full fine-tuning, mixed precision       2P + 2P + 12P = 16P      weights, gradients; fp32 copy and two moments
    LoRA in fp32 on a bf16 base             2P + 16T                 4 + 4 + 8 for each trained number
    QLoRA                                   4.127/8 · P_linear + 2 · P_other + 16T

What torch holds beyond this between two steps (the last batch, its logits) is not counted, nor what a GPU's libraries
hold. On Hugging Face's benchmark of PEFT methods the former came to about 0.35 GB, whatever the method.
"""

from dataclasses import dataclass, replace

from peft_lessons.accounting.activations import Attention, activations
from peft_lessons.accounting.plan import Method, Plan, lay_out
from peft_lessons.accounting.shapes import ModelShape, Shapes, size

# ---------------------------------------------------------------------------------------------- how weights are stored


@dataclass(frozen=True)
class Dense:
    """Each weight on its own."""

    name: str
    bytes_per_weight: int

    @property
    def bits_per_weight(self) -> float:
        return 8.0 * self.bytes_per_weight

    def nbytes(self, rows: int, columns: int) -> int:
        return rows * columns * self.bytes_per_weight


@dataclass(frozen=True)
class RowScaled:
    """8-bit integers and one fp32 scale for each row, as LLM.int8() stores weights (arXiv:2208.07339, §2.1)."""

    name: str

    @property
    def bits_per_weight(self) -> float:
        """Without the scales, which are 32 bits for a whole row."""
        return 8.0

    def nbytes(self, rows: int, columns: int) -> int:
        return rows * columns + 4 * rows


@dataclass(frozen=True)
class Blockwise:
    """4-bit codes and one fp32 scale for each 64 weights of the flattened matrix, as `quantize` stores them."""

    name: str
    block_size: int = 64

    @property
    def bits_per_weight(self) -> float:
        return 4 + 32 / self.block_size

    def nbytes(self, rows: int, columns: int) -> int:
        return -(-rows * columns // 2) + 4 * self.blocks(rows * columns)

    def blocks(self, weights: int) -> int:
        return -(-weights // self.block_size)


@dataclass(frozen=True)
class DoubleBlockwise(Blockwise):
    """`Blockwise` with 8-bit scales, and one fp32 scale for each 256 of those (arXiv:2305.14314, §3)."""

    second_block_size: int = 256

    @property
    def bits_per_weight(self) -> float:
        return 4 + 8 / self.block_size + 32 / (self.block_size * self.second_block_size)

    def nbytes(self, rows: int, columns: int) -> int:
        blocks = self.blocks(rows * columns)
        mean = 4  # of the scales, which is subtracted before they are rounded
        return -(-rows * columns // 2) + blocks + 4 * -(-blocks // self.second_block_size) + mean


Storage = Dense | RowScaled | Blockwise

FP32 = Dense("fp32", 4)
BF16 = Dense("bf16", 2)
INT8 = RowScaled("int8")
NF4 = Blockwise("nf4")
NF4_DOUBLE = DoubleBlockwise("nf4, double")
STORAGES: dict[str, Storage] = {storage.name: storage for storage in (FP32, BF16, INT8, NF4, NF4_DOUBLE)}


# ------------------------------------------------------------------------------------------------- how numbers train


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bytes that one trained number takes in each of its copies."""

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
    """Bytes, by what they hold."""

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
    shape: ModelShape, method: Method, *, precision: Precision, storage: Storage = BF16, optimizer: Optimizer = ADAMW
) -> Memory:
    """What is held between two steps: all but activations.

    `storage` is that of frozen linear layers in the blocks. Embeddings, norms, biases and the head stay dense: in
    `storage` when that is dense itself, else in bf16, as QLoRA leaves them. What trains is stored as `precision` says,
    and so is what a method keeps frozen beside the model.
    """
    plan = lay_out(shape, method)
    trained = plan.all_trained
    added = size(plan.adapter_trained) + size(plan.adapter_frozen)
    return Memory(
        base=_base_bytes(plan, storage) + size(plan.own_trained) * precision.weight,
        adapter=added * precision.weight,
        gradients=size(trained) * precision.gradient,
        optimizer=optimizer.nbytes(trained, precision),
    )


def _base_bytes(plan: Plan, storage: Storage) -> int:
    """Bytes of the model's own weights that do not train."""
    dense = storage if isinstance(storage, Dense) else BF16
    total = 0
    for module in plan.shape.modules:
        if module.name in plan.own:
            continue
        quantized = module.kind == "linear" and module.layer is not None
        for name, tensor in module.tensors.items():
            if quantized and name.endswith(".weight"):
                total += storage.nbytes(module.out_features, module.in_features)
            else:
                total += dense.nbytes(1, size({name: tensor}))
    return total


def training_memory(
    shape: ModelShape,
    method: Method,
    *,
    batch: int,
    tokens: int,
    precision: Precision,
    storage: Storage = BF16,
    optimizer: Optimizer = ADAMW,
    compute: Dense = BF16,
    attention: Attention = "flash",
    checkpointing: bool = False,
) -> Memory:
    """What is held in a step at most: `model_states`, gradients included, and the activations, in `compute`."""
    states = model_states(shape, method, precision=precision, storage=storage, optimizer=optimizer)
    kept = activations(
        shape,
        method,
        batch=batch,
        tokens=tokens,
        bytes_per_number=compute.bytes_per_weight,
        attention=attention,
        checkpointing=checkpointing,
    )
    return replace(states, activations=kept.total)
