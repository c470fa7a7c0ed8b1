"""How weights are stored: what this course quantizes to, and what quantized checkpoints hold.

A checkpoint says in the `quantization_config` of its `config.json` how its linear weights lie in memory. They stay so
in training: adapters are put on top.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


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


@dataclass(frozen=True)
class Grouped:
    """Codes of a few bits with one fp16 scale and one zero point for each group of inputs of each output.

    GPTQ (arXiv:2210.17323) and AWQ (arXiv:2306.00978) store weights so; GPTQ adds an int32 for each input, its group.
    `group_size` None is one group for all inputs.
    """

    name: str
    bits: int
    group_size: int | None
    group_of_each_input: bool = False

    @property
    def bits_per_weight(self) -> float:
        """Without the groups of the inputs."""
        return self.bits + (16 + self.bits) / self.group_size if self.group_size else float(self.bits)

    def nbytes(self, rows: int, columns: int) -> int:
        groups = -(-columns // self.group_size) if self.group_size else 1
        words = -(-columns * self.bits // 32) * rows + groups * -(-rows * self.bits // 32)  # codes and zero points
        return 4 * words + 2 * groups * rows + 4 * columns * self.group_of_each_input


@dataclass(frozen=True)
class Tiled:
    """8-bit floats and one fp32 scale for each tile of the matrix (arXiv:2412.19437, §3.3.2), or for all of it."""

    name: str
    tile: tuple[int, int] | None

    @property
    def bits_per_weight(self) -> float:
        return 8 + 32 / (self.tile[0] * self.tile[1]) if self.tile else 8.0

    def nbytes(self, rows: int, columns: int) -> int:
        tiles = -(-rows // self.tile[0]) * -(-columns // self.tile[1]) if self.tile else 1
        return rows * columns + 4 * tiles


Storage = Dense | RowScaled | Blockwise | Grouped | Tiled

FP32 = Dense("fp32", 4)
BF16 = Dense("bf16", 2)
INT8 = RowScaled("int8")
NF4 = Blockwise("nf4")
NF4_DOUBLE = DoubleBlockwise("nf4, double")
STORAGES: dict[str, Storage] = {storage.name: storage for storage in (FP32, BF16, INT8, NF4, NF4_DOUBLE)}


# ------------------------------------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class Stored:
    """How a quantized checkpoint holds the linear weights of its blocks.

    Examples:
        >>> from peft_lessons.accounting import NF4, Stored
        >>> Stored(NF4).storage.bits_per_weight
        4.5
    """

    storage: Storage
    dense: tuple[str, ...] = ()  # names, or starts or ends of names, of modules that stayed dense
    experts: bool = True  # whether stacks of experts are quantized, too

    def holds(self, name: str) -> bool:
        """Return whether the linear layer called `name` is quantized: the rule of transformers."""
        return not any(f"{name}.".startswith(f"{one}.") or name.endswith(one) for one in self.dense)


def stored_as(settings: Mapping[str, Any]) -> Stored:
    """How a checkpoint with this `quantization_config` is stored.

    Raises:
        ValueError: for a method that is not counted here, and for a setting that is missing or of a wrong kind.
    """
    method = settings.get("quant_method", "bitsandbytes" if "load_in_4bit" in settings else None)
    if not isinstance(method, str) or method not in CHECKPOINTS:
        shown = repr(method)[:60]
        raise ValueError(f"quantized by {shown}, which is not counted here; possible: {', '.join(CHECKPOINTS)}")
    return CHECKPOINTS[method](settings)


def _bitsandbytes(settings: Mapping[str, Any]) -> Stored:
    dense = _names(settings, "llm_int8_skip_modules")
    if settings.get("load_in_8bit") is True:
        return Stored(INT8, dense, experts=False)
    if settings.get("load_in_4bit") is not True:
        raise ValueError("quantized by bitsandbytes, with neither load_in_4bit nor load_in_8bit")
    return Stored(NF4_DOUBLE if settings.get("bnb_4bit_use_double_quant") else NF4, dense, experts=False)


def _gptq(settings: Mapping[str, Any]) -> Stored:
    for name in ("dynamic", "modules_in_block_to_quantize"):
        if settings.get(name):
            raise ValueError(f"quantization_config: {name} says that layers differ, which is not counted here")
    return Stored(Grouped("gptq", *_bits_and_group(settings), group_of_each_input=True))


def _awq(settings: Mapping[str, Any]) -> Stored:
    return Stored(Grouped("awq", *_bits_and_group(settings)), _names(settings, "modules_to_not_convert"))


def _fp8(settings: Mapping[str, Any]) -> Stored:
    tile = settings.get("weight_block_size")
    if tile is not None and not (type(tile) is list and len(tile) == 2 and all(_is_count(side) for side in tile)):
        raise ValueError(f"weight_block_size is {str(tile)[:60]!r}, not two whole numbers")
    dense = _names(settings, "modules_to_not_convert") + _names(settings, "ignored_layers")
    return Stored(Tiled("fp8", (tile[0], tile[1]) if tile else None), dense)


CHECKPOINTS: dict[str, Callable[[Mapping[str, Any]], Stored]] = {
    "bitsandbytes": _bitsandbytes,
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
}


def _bits_and_group(settings: Mapping[str, Any]) -> tuple[int, int | None]:
    if settings.get("lm_head"):
        raise ValueError("quantization_config: lm_head is quantized, which is not counted here")
    bits, group = settings.get("bits", settings.get("w_bit")), settings.get("group_size", settings.get("q_group_size"))
    if bits not in (2, 3, 4, 8) or type(bits) is not int:
        raise ValueError(f"quantization_config: bits is {str(bits)[:60]!r}; possible: 2, 3, 4, 8")
    if group != -1 and not _is_count(group):
        raise ValueError(f"quantization_config: group_size is {str(group)[:60]!r}, neither a whole number nor -1")
    return bits, None if group == -1 else group


def _names(settings: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = settings.get(key)
    names = [] if names is None else names
    if type(names) is not list or not all(type(name) is str and name for name in names):
        raise ValueError(f"quantization_config: {key} is {str(names)[:60]!r}, not a list of names")
    if patterns := [name for name in names if not set(name) <= NAME]:
        raise ValueError(f"quantization_config: {key} holds the pattern {patterns[0][:60]!r}; only names are read")
    return tuple(names)


NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value < 2**31
