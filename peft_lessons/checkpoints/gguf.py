"""A LoRA adapter as a file for llama.cpp and what is built on it, such as Ollama.

llama.cpp computes W x + scale · (α / r) B (A x), with the scale that a request asks for, the rank r of each pair and
one α in the file. Where an adapter's own scaling is another one (√r in place of r, an α of its own for some modules), B
takes up the difference. B of queries and keys is in llama.cpp's order of rows (`llama_gguf`).

Left out: what is no matrix added to a weight, or added to what llama.cpp does not look at. It is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from peft_lessons.checkpoints.files import StoredAdapter, read_adapter
from peft_lessons.checkpoints.peft_names import layout_of
from peft_lessons.checkpoints.schema import PREFIX
from peft_lessons.checkpoints.weights import plain_name, unfit
from peft_lessons.exact import exact
from peft_lessons.files import user_path
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models.gguf import GGUFFile, write_gguf
from peft_lessons.models.gguf_blocks import F32
from peft_lessons.models.hub import cached_config
from peft_lessons.models.llama_gguf import (
    ARCHITECTURE,
    config_of,
    in_their_row_order,
    llama_cpp_name,
)

if TYPE_CHECKING:  # the planner is imported where it is needed: it takes as long as all else
    from peft_lessons.accounting import ModelShape

LLAMAS = ("llama", "mistral")  # model types that are one architecture to llama.cpp
MERGED = "merge it into its base and write that: export_merged_gguf(folder, file), peft-lessons export --merged FORMAT"
BESIDE = ("modules_to_save", "trainable_tokens", "target_parameters")  # fields for what trains beside pairs of factors
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"


@exact()
def export_gguf(folder: str | Path, file: str | Path, base: ModelShape | str | Path | None = None) -> Path:
    """Write the LoRA adapter in `folder`, ours or peft's, as a GGUF file for llama.cpp, whole or not at all.

    `base` says which model it is for: the folder of its `config.json`, its GGUF file, a name or shape of
    `peft_lessons.accounting`. Left out, it is what the adapter's settings name, if that is a folder here, in Hugging
    Face's cache, or one of the models that the planner knows.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for another method than LoRA, for what llama.cpp has no place for, for a base that is not known, no
            Llama, or of other sizes than the adapter.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from peft_lessons import export_gguf
        >>> from peft_lessons.tasks import DEVILS_ADAPTER
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_gguf(DEVILS_ADAPTER, Path(folder) / "devil.gguf").name
        'devil.gguf'
    """
    stored = read_adapter(folder)
    return write_adapter(stored, Path(file), base_shape(stored, base), Path(folder).resolve().name)


def write_adapter(stored: StoredAdapter, file: Path, shape: ModelShape, name: str) -> Path:
    """Write an adapter for a base of this shape, under a name that llama.cpp shows.

    Raises:
        ValueError: as `export_gguf`.
    """
    config = _lora(stored)
    alpha, tensors = config.scaling * config.rank, {}  # which llama.cpp divides by the rank
    for module, (A, B) in _pairs(stored.tensors, config, shape).items():
        place, own = f"{llama_cpp_name(module)}.weight", config.at(module)
        assert isinstance(own, LoRAConfig)
        B = in_their_row_order(module, B.float() * (own.scaling * own.rank / alpha), shape)
        tensors[f"{place}.lora_a"] = (A.float().T if module == EMBEDDING else A.float(), F32)  # one row a token
        tensors[f"{place}.lora_b"] = (B, F32)
    metadata = {
        "general.architecture": ARCHITECTURE,
        "general.type": "adapter",
        "general.name": name,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
        "adapter.lora.task_name": name,
    }
    return write_gguf(file, metadata, tensors)


def _lora(stored: StoredAdapter) -> LoRAConfig:
    """Return the adapter's config. Raises ValueError for what is more than pairs of factors."""
    config = stored.config
    if type(config) is not LoRAConfig:
        raise ValueError(f"llama.cpp's adapters are LoRA, and this one is a {type(config).__name__}: {MERGED}")
    if beside := [name for name in BESIDE if getattr(config, name)]:
        raise ValueError(f"llama.cpp's adapters have no place for what {', '.join(beside)} trained: {MERGED}")
    if config.bias != "none":
        raise ValueError(f"llama.cpp's adapters have no place for biases, and bias is {config.bias!r}: {MERGED}")
    return config


def _pairs(tensors: Mapping[str, Tensor], config: LoRAConfig, shape: ModelShape) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A (r, in) and B (out, r) by their modules' names. Raises ValueError for what does not fit `shape`."""
    modules = {module.name: module for module in shape.modules if module.kind in ("linear", "embedding")}
    ends = {f".{theirs}": ours[-1] for ours, theirs in layout_of(config).tensors.items()}
    found: dict[str, dict[str, Tensor]] = {}
    problems = []
    for name, tensor in tensors.items():
        short = plain_name(name).removeprefix(PREFIX)
        end = next((end for end in ends if short.endswith(end)), None)
        if end is None:
            problems.append(f"{short} is no factor of LoRA")
        elif problem := unfit(tensor, tensor.dtype):
            problems.append(f"{short} {problem}")
        else:
            found.setdefault(short.removesuffix(end), {})[ends[end]] = tensor
    for name, factors in found.items():
        if name not in modules:
            problems.append(f"{name} is no matrix of this base")
        elif shape.tie_word_embeddings and name in (EMBEDDING, HEAD):
            problems.append(f"{name} is adapted, and to llama.cpp the tied embedding and head are one tensor")
        elif missing := {"A", "B"} - factors.keys():
            problems.append(f"{name} lacks its factor {', '.join(missing)}")
        else:
            rank = config.at(name).rank
            wanted = (rank, modules[name].in_features), (modules[name].out_features, rank)
            if (sizes := (tuple(factors["A"].shape), tuple(factors["B"].shape))) != wanted:
                problems.append(f"{name} has factors of {sizes}, and rank and base want {wanted}")
    if problems or not found:
        listed = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise ValueError(f"this adapter cannot be written for llama.cpp: {listed or 'it holds no factors'}")
    return {name: (factors["A"], factors["B"]) for name, factors in found.items()}


def base_shape(stored: StoredAdapter, base: ModelShape | str | Path | None) -> ModelShape:
    """Return the shape of the base that was given, or that an adapter names.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for one that is not known or no Llama.
    """
    shape = _known(base) if base is not None else _named(stored.settings.get("base_model_name_or_path"))
    if shape.model_type not in LLAMAS:
        raise ValueError(f"the base is a {shape.model_type}; adapters are written for {' and '.join(LLAMAS)}")
    return shape


def _known(base: ModelShape | str | Path) -> ModelShape:
    from peft_lessons.accounting import MODELS, ModelShape, decoder_shape, shape_from_config

    if isinstance(base, ModelShape):
        return base
    if str(base) in MODELS:
        return MODELS[str(base)]
    path = user_path(str(base))
    return decoder_shape(config_of(GGUFFile(path))) if path.suffix == ".gguf" else shape_from_config(path)


def _named(name: object) -> ModelShape:
    """Return the shape of the model that an adapter's settings name. Asks no network."""
    from peft_lessons.accounting import MODELS, shape_from_config

    if isinstance(name, str) and name:
        if (Path(name) / "config.json").is_file():
            return shape_from_config(name)
        if (cached := cached_config(name)) is not None:
            return shape_from_config(cached)
        own = name.rpartition("/")[2]
        if known := [one for one in MODELS if own == one or own.startswith(f"{one}-")]:
            return MODELS[max(known, key=len)]
    raise ValueError(
        f"the adapter's settings name {name!r:.120} as its base, which is not here: give the base, the folder of its "
        "config.json or its GGUF file, since the order of rows depends on its heads"
    )
