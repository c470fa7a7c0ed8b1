"""GGUF, llama.cpp's file format for models and adapters, read and written: as much of it as the course needs.

A file is a header, named metadata, the names, shapes and offsets of tensors, then their bytes; all little-endian.
Source: the specification, ggml's docs/gguf.md. How numbers lie in blocks is in `gguf_blocks`.
"""

import math
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from peft_lessons.files import write_atomically
from peft_lessons.models.gguf_blocks import BY_NUMBER, FORMATS, Format

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
WRITTEN: dict[type, int] = {bool: 7, int: 4, float: 6, str: STRING}  # as which kind a value is written
IN_ARRAYS = WRITTEN | {int: 5}
ALIGNMENT = 32  # bytes, of the tensors' places
DEEPEST = 8  # arrays within arrays: no writer makes more than two
DIMENSIONS = 4  # of a tensor, as in ggml
Value = TypeVar("Value")
PIECE = 1 << 17  # weights that are read or written at once, which keeps the tensors on the way small


@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]  # as torch has it: a linear weight is (out, in)
    format: Format
    start: int  # bytes from the start of the file

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.weights // self.format.weights * self.format.bytes


class GGUFFile:
    """An open GGUF file: `metadata`, a dict, and `tensors`, their infos by name.

    Counts are compared with the file's length before anything is made of them, so a damaged file asks for no memory.

    Raises:
        ValueError: when it is not GGUF, is cut short or damaged, or holds tensors of a type that is not in
            `gguf_blocks`.
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

    def info(self, name: str) -> TensorInfo:
        """What the file says of a tensor. Raises ValueError for one that it has not."""
        if name not in self.tensors:
            raise ValueError(f"{self.path} has no tensor {name!r}; it has {', '.join(list(self.tensors)[:4])}, …")
        return self.tensors[name]

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as fp32, dequantized when it is stored in blocks. A new tensor each time.

        Its memory is its own and goes back to the system with it. In C's heap small objects lie between the weights:
        0.4 GB of a model that is gone would be kept, and be of no use to the next one.
        """
        blocks, info = self.blocks(name), self.info(name)
        count = PIECE // info.format.weights
        tensor = torch.frombuffer(mmap.mmap(-1, 4 * info.weights, access=mmap.ACCESS_COPY), dtype=torch.float32)
        for part, some in zip(tensor.view(len(blocks), -1).split(count), blocks.split(count), strict=True):
            part.copy_(info.format.decode(some))
        return tensor.view(info.shape)

    def blocks(self, name: str) -> Tensor:
        """Return a tensor as it lies in the file: uint8 (blocks, bytes in a block), memory of the file itself."""
        info = self.info(name)
        raw = torch.frombuffer(self._bytes, dtype=torch.uint8, count=info.bytes, offset=info.start)
        return raw.view(-1, info.format.bytes)

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
            name: TensorInfo(shape, BY_NUMBER[kind], data + offset) for name, (shape, kind, offset) in entries.items()
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
        if kind not in BY_NUMBER:
            possible = ", ".join(f"{one.name} ({one.number})" for one in FORMATS)
            raise ValueError(f"{self.path}: {name:.60} has tensor type {kind}; these can be read: {possible}")
        if shape[-1] % (block := BY_NUMBER[kind].weights) or 0 in shape:
            raise ValueError(f"{self.path}: {name:.60} has shape {shape}, not whole blocks of {block}")
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


def write_gguf(path: str | Path, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[Tensor, Format]]) -> Path:
    """Write a file, whole or not at all; returns its path. Each tensor goes with the format that it is kept in.

    Texts, numbers, flags and lists of one of these can be metadata: whole numbers of 32 bits, others in fp32.

    Raises:
        ValueError: for a tensor that is no whole number of blocks or whose numbers are not finite or too large, and for
            metadata of another kind.
    """
    entries, offset = b"", 0
    for name, (tensor, kind) in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds numbers that are NaN or infinite: nothing is written")
        if tensor.shape[-1] % kind.weights:
            raise ValueError(f"{name} has rows of {tensor.shape[-1]} numbers, not whole blocks of {kind.weights}")
        shape = tensor.shape[::-1]  # the file has the fastest axis first
        entries += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind.number, offset)
        offset += _aligned(tensor.numel() // kind.weights * kind.bytes)
    head = MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(metadata))
    head += b"".join(_text(name) + _written(name, value) for name, value in metadata.items()) + entries

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            file.write(head.ljust(_aligned(len(head)), b"\0"))
            for name, (tensor, kind) in tensors.items():
                size = 0
                for some in tensor.detach().cpu().float().reshape(-1, kind.weights).split(PIECE // kind.weights):
                    try:
                        size += file.write(kind.encode(some).numpy().tobytes())
                    except ValueError as error:
                        raise ValueError(f"{name}: {error}") from error
                file.write(b"\0" * (_aligned(size) - size))

    write_atomically(Path(path), write)
    return Path(path)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(value: str) -> bytes:
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


def _written(name: str, value: Any) -> bytes:
    """A value of metadata, behind its kind."""
    values, kinds = (value, IN_ARRAYS) if isinstance(value, list) else ([value], WRITTEN)
    kind = kinds.get(type(values[0])) if values and len({type(one) for one in values}) == 1 else None
    if kind is None:
        raise ValueError(f"{name} is {value!r:.60}; possible: a text, a number, a flag, or a list of one of these")
    try:
        content = b"".join(_text(one) if kind == STRING else struct.pack(f"<{SCALARS[kind]}", one) for one in values)
    except struct.error as error:
        raise ValueError(f"{name} is {value!r:.60}, beyond 32 bits") from error
    start = struct.pack("<IIQ", ARRAY, kind, len(values)) if isinstance(value, list) else struct.pack("<I", kind)
    return start + content
