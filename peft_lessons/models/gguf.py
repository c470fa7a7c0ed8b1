"""Reads GGUF, llama.cpp's file format for quantized models: as much of it as the course's model needs.

A file is a header, named metadata, the names, shapes and offsets of tensors, then their bytes; all little-endian.
Source: the specification, ggml's docs/gguf.md. Block formats, from ggml's `block_q4_1` and `block_q8_0`:

- Q4_1, 20 bytes for 32 weights: fp16 scale, fp16 minimum, 16 bytes of codes; weight = scale · code + minimum. A byte
  holds weight i in its low four bits and weight i + 16 in its high four.
- Q8_0, 34 bytes for 32 weights: fp16 scale, 32 int8 codes; weight = scale · code.
"""

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
F32, Q4_1, Q8_0 = 0, 3, 8
BLOCKS = {F32: (1, 4), Q4_1: (32, 20), Q8_0: (32, 34)}  # (weights, bytes) in a block, by type
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
DEEPEST = 8  # arrays within arrays: no writer makes more than two
DIMENSIONS = 4  # of a tensor, as in ggml
Value = TypeVar("Value")
PIECE = 4096  # blocks that are dequantized at once, which keeps the tensors on the way small


@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]  # as torch has it: a linear weight is (out, in)
    type: int
    start: int  # bytes from the start of the file

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        weights, size = BLOCKS[self.type]
        return self.weights // weights * size


class GGUFFile:
    """An open GGUF file: `metadata`, a dict, and `tensors`, their infos by name.

    Counts are compared with the file's length before anything is made of them, so a damaged file asks for no memory.

    Raises:
        ValueError: when it is not GGUF, is cut short or damaged, or holds tensors of another type than F32, Q4_1
            and Q8_0.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open(self.path, "rb") as file:
            if file.read(4) != MAGIC:
                raise ValueError(f"{self.path} is not a GGUF file: it does not begin with {MAGIC.decode()!r}")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._position = len(MAGIC)
        try:
            self.metadata, self.tensors = self._header()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} is cut short or damaged: {error}") from error
        end = max((info.start + info.bytes for info in self.tensors.values()), default=0)
        if end > len(self._bytes):
            raise ValueError(f"{self.path} is cut short: {len(self._bytes)} bytes, its tensors need {end}")

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as fp32, dequantized when it is stored in blocks. A new tensor each time.

        Its memory is its own and goes back to the system with it. In C's heap small objects lie between the weights:
        0.4 GB of a model that is gone would be kept, and be of no use to the next one.
        """
        blocks, info = self.blocks(name), self.tensors[name]
        tensor = torch.frombuffer(mmap.mmap(-1, 4 * info.weights, access=mmap.ACCESS_COPY), dtype=torch.float32)
        for part, some in zip(tensor.view(len(blocks), -1).split(PIECE), blocks.split(PIECE), strict=True):
            part.copy_(_DEQUANTIZE[info.type](some))
        return tensor.view(info.shape)

    def blocks(self, name: str) -> Tensor:
        """Return a tensor as it lies in the file: uint8 (blocks, bytes in a block), memory of the file itself."""
        if name not in self.tensors:
            raise ValueError(f"{self.path} has no tensor {name!r}; it has {', '.join(list(self.tensors)[:4])}, …")
        info = self.tensors[name]
        raw = torch.frombuffer(self._bytes, dtype=torch.uint8, count=info.bytes, offset=info.start)
        return raw.view(-1, BLOCKS[info.type][1])

    def _header(self) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
        version = self._scalar("I")
        if version not in VERSIONS:
            raise ValueError(f"{self.path} is GGUF version {version}; versions {VERSIONS} can be read")
        tensor_count, metadata_count = self._scalar("Q"), self._scalar("Q")
        metadata = self._named(metadata_count, 8 + 4 + 1, lambda _: self._value(self._scalar("I")))
        entries = self._named(tensor_count, 8 + 4 + 8 + 4 + 8, self._tensor_entry)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 8 or alignment % 8:
            raise ValueError(f"{self.path}: general.alignment is {alignment!r:.60}, not a multiple of 8")
        data = -(-self._position // alignment) * alignment
        return metadata, {
            name: TensorInfo(shape, kind, data + offset) for name, (shape, kind, offset) in entries.items()
        }

    def _named(self, count: int, smallest: int, read: Callable[[str], Value]) -> dict[str, Value]:
        """`count` names and what `read` finds behind each, of at least `smallest` bytes together."""
        self._require_room(count, smallest)
        found: dict[str, Value] = {}
        for _ in range(count):
            name = self._string()
            if name in found:
                raise ValueError(f"{self.path} is damaged: it names {name!r:.60} twice")
            found[name] = read(name)
        return found

    def _tensor_entry(self, name: str) -> tuple[tuple[int, ...], int, int]:
        dimensions = self._scalar("I")
        if not 1 <= dimensions <= DIMENSIONS:
            raise ValueError(f"{self.path}: {name:.60} has {dimensions} dimensions; possible: 1 to {DIMENSIONS}")
        shape = tuple(self._scalar("Q") for _ in range(dimensions))[::-1]  # the file has the fastest axis first
        kind, offset = self._scalar("I"), self._scalar("Q")
        if kind not in BLOCKS:
            raise ValueError(
                f"{self.path}: {name:.60} has tensor type {kind}; F32 (0), Q4_1 (3) and Q8_0 (8) can be read"
            )
        if shape[-1] % BLOCKS[kind][0] or 0 in shape:
            raise ValueError(f"{self.path}: {name:.60} has shape {shape}, not whole blocks of {BLOCKS[kind][0]}")
        return shape, kind, offset

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            if depth == DEEPEST:
                raise ValueError(f"{self.path} is damaged: arrays lie more than {DEEPEST} deep in each other")
            inner, count = self._scalar("I"), self._scalar("Q")
            if inner in SCALARS:
                return self._scalars(SCALARS[inner], count)
            self._require_room(count, 8 if inner == STRING else 12)
            return [self._value(inner, depth + 1) for _ in range(count)]
        if kind not in SCALARS:
            raise ValueError(f"{self.path} is damaged: metadata of unknown type {kind}")
        return self._scalar(SCALARS[kind])

    def _scalar(self, code: str) -> Any:
        return self._scalars(code, 1)[0]

    def _scalars(self, code: str, count: int) -> list[Any]:
        size = struct.calcsize(code)
        self._require_room(count, size)
        start, self._position = self._position, self._position + count * size
        return list(struct.unpack_from(f"<{count}{code}", self._bytes, start))

    def _string(self) -> str:
        length = self._scalar("Q")
        self._require_room(length, 1)
        start, self._position = self._position, self._position + length
        return self._bytes[start : self._position].decode()

    def _require_room(self, count: int, size: int) -> None:
        if count * size > (left := len(self._bytes) - self._position):
            raise ValueError(
                f"{self.path} is cut short or damaged: {count} × {size} bytes do not fit into the {left} that are left"
            )


def _f32(blocks: Tensor) -> Tensor:
    return blocks.clone().view(torch.float32)


def from_q4_1(blocks: Tensor) -> Tensor:
    """Q4_1 blocks, uint8 (blocks, 20) → fp32 (blocks, 32)."""
    scale, minimum = blocks[:, :4].contiguous().view(torch.float16).float().chunk(2, dim=1)
    packed = blocks[:, 4:]
    weights = torch.empty(len(blocks), 32, dtype=torch.float32, device=blocks.device)
    weights[:, :16] = packed & 15
    weights[:, 16:] = packed >> 4
    return weights.mul_(scale).add_(minimum)


def _q8_0(blocks: Tensor) -> Tensor:
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    return blocks[:, 2:].contiguous().view(torch.int8).float().mul_(scale)


_DEQUANTIZE = {F32: _f32, Q4_1: from_q4_1, Q8_0: _q8_0}
