"""One task for SmolLM2 on a laptop: sentences about countries become JSON. Full fine-tuning, LoRA and QLoRA, 60 steps.

A row has, for each held-out country, whether the greedy answer is the wanted record to the last character (1 or 0): in
a sentence form that was learnt ("known") and in one that was not ("new"). Beside it the perplexity on speeches, text
that has nothing to do with the task; what trains; peak memory of a step; bytes on the disk; seconds of training.
"""

import math
import time
from functools import cache
from typing import Any

import torch
from torch import nn

from peft_lessons import data
from peft_lessons.accounting.files import safetensors_bytes
from peft_lessons.accounting.measured import TensorMemory
from peft_lessons.adapters import adapter_state_dict, inject, named_adapters, trainable_parameters
from peft_lessons.experiments import _prefix
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.partial import full_fine_tuning
from peft_lessons.models import Tokenizer, load_smollm2
from peft_lessons.models.decoder import Decoder, KeyValueCache
from peft_lessons.quantization import quantize_model
from peft_lessons.tasks import Countries, Example, country_records
from peft_lessons.training import (
    Batch,
    consecutive_windows,
    evaluate_loss,
    language_model_loss,
    padded,
    shuffled,
    train,
)

STEPS, BATCH = 60, 4
LORA = LoRAConfig(rank=4, alpha=8)
# The first rate of each is the one that a second seed repeats.
RATES = {"none": (0.0,), "LoRA": (2e-3, 5e-4, 1e-2), "QLoRA": (2e-3,), "full": (1e-4, 5e-4)}


def cases() -> list[dict[str, Any]]:
    tuned = [{"method": method, "learning_rate": rate, "seed": 0} for method, rates in RATES.items() for rate in rates]
    repeated = [
        {"method": method, "learning_rate": RATES[method][0], "seed": 1} for method in ("LoRA", "QLoRA", "full")
    ]
    return tuned + repeated


def prepare(method: str) -> tuple[Decoder, Tokenizer]:
    """Make a fresh SmolLM2 ready to train. Raises ValueError that lists the methods when there is none of this name."""
    if method not in RATES:
        raise ValueError(f"no method is called {method!r}; there are {', '.join(RATES)}")
    model, tokenizer = load_smollm2()
    if method == "QLoRA":
        quantize_model(model, double=True)
    if method == "full":
        full_fine_tuning(model)
    elif method != "none":
        inject(model, LORA)
    return model, tokenizer


@cache
def speeches() -> list[Batch]:
    """General text: the beginnings of four addresses, a thousand tokens each."""
    _, tokenizer = load_smollm2()
    texts = [row["text"] for row in data.speeches()[::3]]
    ids = [token for text in texts for token in tokenizer.encode(text[:8000])[:1024]]
    return consecutive_windows(ids, batch_size=4, length=128)


def general_perplexity(model: nn.Module) -> float:
    return math.exp(evaluate_loss(model, speeches()))


def exact(model: Decoder, examples: list[Example], pad_id: int) -> list[int]:
    """1 for each example whose greedy answer is the wanted one, to the end; else 0.

    No text is generated: greedy decoding gives the wanted answer exactly when, with the wanted answer as input, each of
    its tokens is the likeliest after those before it.
    """
    return [int(share == 1) for share in likeliest(model, examples, pad_id)]


@torch.no_grad()
def likeliest(model: Decoder, examples: list[Example], pad_id: int, prefix: KeyValueCache | None = None) -> list[float]:
    """For each example, the share of its answer's tokens that are the likeliest after those before them.

    `prefix` holds what stands before every one of them.
    """
    found = []
    for start in range(0, len(examples), 8):
        input_ids, labels = padded(examples[start : start + 8], pad_id)
        scored = labels[:, 1:] >= 0
        cache = _prefix.before(prefix, len(input_ids)) if prefix else None
        hidden = model.model(input_ids, cache=cache)[:, :-1][scored]
        right = torch.zeros_like(scored)
        right[scored] = model.lm_head(hidden).argmax(-1) == input_ids[:, 1:][scored]
        found += (right.sum(1) / scored.sum(1)).tolist()
    return found


def peak_bytes(model: Decoder, examples: list[Example], pad_id: int) -> int:
    """Bytes of all tensors alive at the worst moment of two steps on four of the examples, at a rate of zero."""
    batch = padded(examples[:BATCH], pad_id)
    optimizer = torch.optim.AdamW(trainable_parameters(model.train()), lr=0.0)
    with TensorMemory(model) as memory:
        for _ in range(2):
            optimizer.zero_grad()
            language_model_loss(model, *batch).backward()
            optimizer.step()
    optimizer.zero_grad()
    model.eval()
    return memory.peak


def stored_bytes(model: Decoder) -> int:
    """Bytes of a file with what trained: the adapter, or the whole model in fp32."""
    state = adapter_state_dict(model) if any(named_adapters(model)) else dict(model.named_parameters())
    return safetensors_bytes({name: tensor.shape for name, tensor in state.items()})


def measure(method: str, learning_rate: float, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model, tokenizer = prepare(method)
    examples: Countries = country_records(tokenizer)
    pad_id = tokenizer.eos_id
    started, peak, trained = time.perf_counter(), 0, 0
    if method != "none":
        trained = sum(parameter.numel() for parameter in trainable_parameters(model))
        peak = peak_bytes(model, examples.train, pad_id)
        batches = shuffled(examples.train, batch_size=BATCH, pad_id=pad_id, seed=seed)
        started = time.perf_counter()
        train(model, batches, steps=STEPS, learning_rate=learning_rate, bar=iter, seed=seed)
    seconds = time.perf_counter() - started
    return {
        "known": exact(model, examples.held_out, pad_id),
        "new": exact(model, examples.new_form, pad_id),
        "speeches": general_perplexity(model),
        "trained": trained,
        "peak_bytes": peak,
        "file_bytes": stored_bytes(model) if trained else 0,
        "seconds": seconds,
    }
