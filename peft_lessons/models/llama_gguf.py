"""Llama-shaped models in llama.cpp's files: what tensors are called there, and in which order their rows lie.

In Llamas llama.cpp rotates neighbours (2i, 2i + 1) of each head, Hugging Face's models and this decoder (i, i +
head_dim / 2). So the rows of queries and keys lie in another order there. (In Qwen, Gemma and others it rotates as
here.) A file with rows in the wrong order loads, and the model then writes nonsense.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from peft_lessons.adapters import named_adapters
from peft_lessons.exact import exact
from peft_lessons.models.decoder import Decoder, DecoderConfig
from peft_lessons.models.gguf import GGUFFile, write_gguf
from peft_lessons.models.gguf_blocks import BY_NAME, F16, F32, Q4_0, Q4_1, Q8_0, Format
from peft_lessons.models.tokenizer import Tokenizer

ARCHITECTURE = "llama"

# GGUF's names on the left, Hugging Face's on the right; {} is the number of a layer.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.{}.attn_k": "model.layers.{}.self_attn.k_proj",
    "blk.{}.attn_v": "model.layers.{}.self_attn.v_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
    "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_gate": "model.layers.{}.mlp.gate_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.up_proj",
    "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
}
LLAMA_NAMES = {ours: theirs for theirs, ours in NAMES.items()}
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7}  # what a file calls the format of most weights
QUANTIZATION_VERSION = 2
LONGEST = 1_000_000_000  # tokens of context that are taken for honest


class Heads(Protocol):
    """What says how many heads a model has: a `DecoderConfig`, or a `ModelShape` of the planner."""

    @property
    def num_attention_heads(self) -> int: ...

    @property
    def num_key_value_heads(self) -> int: ...


def hugging_face_name(name: str) -> str:
    """blk.3.attn_q → model.layers.3.self_attn.q_proj. Raises ValueError for a name that no Llama has."""
    return _translated(name, NAMES, "blk.")


def llama_cpp_name(name: str) -> str:
    """model.layers.3.self_attn.q_proj → blk.3.attn_q. Raises ValueError for a name that no Llama has."""
    return _translated(name, LLAMA_NAMES, "model.layers.")


def _translated(name: str, names: dict[str, str], start: str) -> str:
    number, _, part = name.removeprefix(start).partition(".") if name.startswith(start) else ("", "", "")
    pattern = f"{start}{{}}.{part}" if number.isdigit() else name
    if pattern not in names:
        raise ValueError(f"{name:.80} is no part of a Llama; possible: {', '.join(names)}")
    return names[pattern].format(number)


def rotated_heads(name: str, heads: Heads) -> int | None:
    """How many heads the rows of the module called `name` in Hugging Face's models belong to, if they are rotated."""
    counts = {"q_proj": heads.num_attention_heads, "k_proj": heads.num_key_value_heads}
    return counts.get(name.rpartition(".")[2])


def to_neighbours(rows: Tensor, heads: int) -> Tensor:
    """Rows (heads · head_dim, …) in Hugging Face's order → in llama.cpp's, where what is rotated together is together.

    Examples:
        >>> import torch
        >>> from peft_lessons.models.llama_gguf import to_neighbours
        >>> to_neighbours(torch.arange(8), heads=2).tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(rows.shape)


def to_halves(rows: Tensor, heads: int) -> Tensor:
    """Undo `to_neighbours`."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(rows.shape)


def in_our_row_order(name: str, rows: Tensor, heads: Heads) -> Tensor:
    """Rows of the module that we call `name`, from a file."""
    count = rotated_heads(name, heads)
    return rows if count is None else to_halves(rows, count)


def in_their_row_order(name: str, rows: Tensor, heads: Heads) -> Tensor:
    """Rows of the module that we call `name`, for a file."""
    count = rotated_heads(name, heads)
    return rows if count is None else to_neighbours(rows, count)


@exact()
def load_gguf(path: str | Path) -> tuple[Decoder, Tokenizer]:
    """Load the Llama in a GGUF file, dequantized to fp32 and in eval mode, and its tokenizer.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a damaged one, a format, an architecture or a tokenizer that cannot be read here.

    Examples:
        >>> import tempfile
        >>> from peft_lessons.models import load_gguf, load_tiny_gpt, save_gguf
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model, tokenizer = load_gguf(save_gguf(*load_tiny_gpt(), f"{folder}/tiny.gguf"))
        >>> tokenizer.decode(tokenizer.encode("It was a truth"))
        'It was a truth'
    """
    file = GGUFFile(path)
    if "rope_freqs.weight" in file.tensors or "llama.rope.scaling.type" in file.metadata:
        raise ValueError(f"{file.path} scales its rotary frequencies, which is not supported here")
    config, tensors = config_of(file), {}
    for name in file.tensors:
        ours, tensor = hugging_face_name(name.removesuffix(".weight")), file.tensor(name)
        tensors[f"{ours}.weight"] = tensor.copy_(in_our_row_order(ours, tensor, config))
    return Decoder.from_tensors(config, tensors), Tokenizer.from_gguf(file.metadata)


def config_of(file: GGUFFile) -> DecoderConfig:
    """Return the shape of the Llama in a file, whether or not this decoder computes all that the file asks for.

    Raises:
        ValueError: for another architecture, and for a setting that is missing or that its tensors cannot have.
    """
    said = file.metadata
    if (architecture := said.get("general.architecture")) != ARCHITECTURE:
        raise ValueError(f"{file.path} holds a model of the architecture {architecture!r:.60}; possible: 'llama'")

    vocab_size, width = (*file.info("token_embd.weight").shape, 0)[:2]

    def number(name: str, default: float | None = None) -> Any:
        value: Any = said.get(f"llama.{name}", default)
        if type(value) not in (int, float) or not value > 0:
            raise ValueError(f"{file.path}: llama.{name} is {value!r:.60}, not a number above 0")
        return value

    def size(name: str, most: int, default: int | None = None) -> int:
        """One that its tensors can have: a damaged file must not ask for more modules or memory than it fills."""
        value = number(name, default)
        if type(value) is not int or value > most:
            raise ValueError(f"{file.path}: llama.{name} is {value!r:.60}, and its tensors allow {most} at most")
        return value

    heads = size("attention.head_count", width)
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=size("embedding_length", width),
        intermediate_size=size("feed_forward_length", max(info.weights for info in file.tensors.values())),
        num_hidden_layers=size("block_count", len(file.tensors)),
        num_attention_heads=heads,
        num_key_value_heads=size("attention.head_count_kv", heads, heads),
        max_position_embeddings=size("context_length", LONGEST),
        rope_theta=number("rope.freq_base", 10_000.0),
        rms_norm_eps=number("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings="output.weight" not in file.tensors,
    )


@exact()
def save_gguf(model: Decoder, tokenizer: Tokenizer, path: str | Path, weights: str = "F16") -> Path:
    """Write a model, its tokenizer and chat template as a file for llama.cpp, whole or not at all; returns its path.

    `weights` is the format of the matrices: "F32", "F16", "Q8_0", "Q4_0" or "Q4_1". With 4 bits the embedding and the
    head are kept in 8, as in SmolLM2's own file. Rows that are no whole blocks of 32 are kept in F16, norms in F32.
    Q4_1 writes what was read from a Q4_1 file as it was, without a loss. For the same reason it is the wrong format for
    an adapter that was merged into SmolLM2: what is below half a step falls back to the base's own code.

    Raises:
        TypeError: for a model that is no `Decoder`.
        ValueError: for another format, a model with adapters, a weight that is not finite or too large, and a tokenizer
            of a kind that llama.cpp would split in another way.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from peft_lessons.models import load_tiny_gpt, save_gguf
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_gguf(*load_tiny_gpt(), Path(folder) / "tiny.gguf", weights="Q8_0").stat().st_size < 1.5e6
        True
    """
    if weights not in FILE_TYPES:
        raise ValueError(f"weights is {weights!r}; possible: {', '.join(FILE_TYPES)}")
    check_savable(model)
    metadata = {
        "general.architecture": ARCHITECTURE,
        "general.type": "model",
        "general.file_type": FILE_TYPES[weights],
        "general.quantization_version": QUANTIZATION_VERSION,
        **_metadata(model.config),
        **tokenizer.to_gguf(model.config.vocab_size),
    }
    tensors = {}
    for name, weight in _weights(model):
        rows = in_their_row_order(name, weight, model.config)
        tensors[f"{llama_cpp_name(name)}.weight"] = (rows, _kept_as(name, rows, BY_NAME[weights]))
    return write_gguf(path, metadata, tensors)


def check_savable(model: object) -> None:
    """TypeError for what is no `Decoder`, ValueError for one that still has adapters."""
    if not isinstance(model, Decoder):
        raise TypeError(f"only a Decoder is written, such as load_from_hub gives; got {type(model).__name__}")
    if adapted := [name for name, _ in named_adapters(model)]:
        raise ValueError(f"the model has adapters ({adapted[0]} …): merge(model) first, or export_gguf(folder, file)")


def _metadata(config: DecoderConfig) -> dict[str, Any]:
    return {
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": float(config.rope_theta),
        "llama.rope.dimension_count": config.head_dim,
    }


def _weights(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    """Every weight by the name of its module, a tied head's left out. Quantized layers are dequantized on the way."""
    layers = range(model.config.num_hidden_layers)
    for pattern in LLAMA_NAMES:
        if pattern == "lm_head" and model.config.tie_word_embeddings:
            continue
        for name in [pattern.format(i) for i in layers] if "{}" in pattern else [pattern]:
            weight: Any = model.get_submodule(name).weight
            yield name, weight


def _kept_as(name: str, weight: Tensor, wanted: Format) -> Format:
    if weight.ndim == 1:
        return F32
    if name in ("model.embed_tokens", "lm_head") and wanted in (Q4_0, Q4_1):
        wanted = Q8_0
    return F16 if weight.shape[-1] % wanted.weights else wanted
