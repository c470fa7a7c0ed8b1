"""One task for SmolLM2: define words as the Devil's Dictionary does. Perplexity is that of held-out definitions."""

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from peft_lessons.adapters import trainable_parameters
from peft_lessons.models import load_smollm2
from peft_lessons.models.decoder import Decoder
from peft_lessons.tasks import Split, devils_definitions
from peft_lessons.training import Batch, evaluate_loss, padded, shuffled, train

STEPS, BATCH = 100, 4


@cache
def examples() -> tuple[Split, int]:
    """Return the examples, and the token to pad with."""
    tokenizer = load_smollm2()[1]
    return devils_definitions(tokenizer), tokenizer.eos_id


@cache
def held_out() -> list[Batch]:
    split, pad_id = examples()
    by_length = sorted(split.held_out, key=lambda example: len(example[0]) + len(example[1]))
    return [padded(by_length[i : i + 8], pad_id) for i in range(0, len(by_length), 8)]


def perplexity(model: Decoder) -> float:
    return math.exp(evaluate_loss(model, held_out()))


def learn(
    prepare: Callable[[Decoder], Any],
    learning_rate: float,
    seed: int = 0,
    steps: int = STEPS,
    load: Callable[[], Decoder] = lambda: load_smollm2()[0],
) -> tuple[Decoder, dict[str, Any]]:
    """Return a fresh SmolLM2 after training, and perplexity, numbers trained and seconds of training."""
    model = load()
    torch.manual_seed(seed)
    prepare(model)
    trained = sum(parameter.numel() for parameter in trainable_parameters(model))
    split, pad_id = examples()
    batches = shuffled(split.train, batch_size=BATCH, pad_id=pad_id, seed=seed)
    started = time.perf_counter()
    train(model, batches, steps=steps, learning_rate=learning_rate, bar=iter, seed=seed)
    seconds = time.perf_counter() - started
    return model, {"perplexity": perplexity(model), "trained": trained, "seconds": seconds}
