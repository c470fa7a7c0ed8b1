"""llama.cpp on the course's own file, through the package xllamacpp: a peer that shares no code with torch.

It runs in processes of its own, since its threads and torch's would wait for each other.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from peft_lessons.adapters import named_adapters
from peft_lessons.methods.lora import LoRALinear
from peft_lessons.models.decoder import Decoder
from peft_lessons.models.gguf import F32
from peft_lessons.models.smollm2 import NAMES, weights_status

CONTEXT = 512  # tokens


class Engine:
    """A server of llama.cpp without a network, with LoRA adapters from GGUF files."""

    def __init__(self, threads: int, adapters: Sequence[str] = ()) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(weights_status().path)
        params.n_ctx, params.n_parallel, params.verbosity = CONTEXT, 1, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in adapters]
        self.server = xllamacpp.Server(params)

    def complete(self, prompt: Sequence[int], new: int, scale: float = 0.0) -> dict[str, Any]:
        """`new` greedy tokens after `prompt`, with the first adapter at `scale`; end tokens do not end it.

        Returns the tokens' ids, their log-probabilities, and llama.cpp's own times: seconds until the first token, and
        tokens per second after it.
        """
        answer = self.server.handle_completions(
            {
                "prompt": list(prompt),
                "n_predict": new,
                "temperature": 0.0,
                "ignore_eos": True,
                "cache_prompt": False,
                "n_probs": 1,
                "lora": [{"id": 0, "scale": scale}],
            }
        )
        tokens, times = answer["choices"][0]["logprobs"]["content"], answer["timings"]
        return {
            "ids": [token["id"] for token in tokens],
            "log_probabilities": [token["logprob"] for token in tokens],
            "first": times["prompt_ms"] / 1000,
            "speed": (times["predicted_n"] - 1) / times["predicted_ms"] * 1000,
        }


def completions(requests: Sequence[Mapping[str, Any]], threads: int = 2, adapters: Sequence[str] = ()) -> list[Any]:
    """The answers to several calls of `Engine.complete`; to be run in a new process."""
    engine = Engine(threads, adapters)
    return [engine.complete(**request) for request in requests]


def write_adapter(model: Decoder, path: Path) -> Path:
    """Write the LoRA adapter that `model` has as a GGUF file, by the names and in the order of rows of llama.cpp."""
    layers = {name: layer for name, layer in named_adapters(model) if isinstance(layer, LoRALinear)}
    tensors = {}
    for name, layer in layers.items():
        _, _, number, part = name.split(".", 3)
        (kind,) = [theirs for theirs, ours in NAMES.items() if ours == f"model.layers.{{}}.{part}"]
        B = layer.lora_B.detach()
        heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
        if count := heads.get(name.rpartition(".")[2]):  # neighbours are rotated there, halves here
            B = B.unflatten(0, (count, 2, -1)).transpose(1, 2).reshape(B.shape)
        tensors[f"{kind.format(number)}.weight.lora_a"] = layer.lora_A.detach()
        tensors[f"{kind.format(number)}.weight.lora_b"] = B
    config = next(iter(layers.values())).config
    metadata = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": config.scaling * config.rank,  # llama.cpp divides by the rank
    }
    path.write_bytes(_gguf(metadata, tensors))
    return path


def _gguf(metadata: Mapping[str, str | float], tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A GGUF file (ggml's docs/gguf.md) of texts, float32 numbers and float32 matrices."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for name, value in metadata.items():
        is_number = isinstance(value, float)
        head += text(name) + (struct.pack("<If", 6, value) if is_number else struct.pack("<I", 8) + text(str(value)))
    data = b""
    for name, tensor in tensors.items():
        rows, columns = tensor.shape  # the file has the fastest axis first
        head += text(name) + struct.pack("<IQQIQ", 2, columns, rows, F32, len(data))
        data += tensor.float().contiguous().numpy().tobytes()
        data += b"\0" * (-len(data) % 32)
    return head + b"\0" * (-len(head) % 32) + data
