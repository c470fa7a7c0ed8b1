"""One task for many runs: the tiny GPT, trained on five novels by Jane Austen, learns hacker slang in a few seconds.

Perplexity is measured on text that no run trains on: Jargon entries (what is to be learnt) and the sixth novel (what is
to be kept).
"""

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from peft_lessons import data
from peft_lessons.adapters import trainable_parameters
from peft_lessons.models import load_tiny_gpt
from peft_lessons.models.decoder import Decoder
from peft_lessons.training import Batch, consecutive_windows, evaluate_loss, train, windows

STEPS, BATCH, LENGTH = 60, 8, 64


@cache
def texts() -> tuple[list[int], dict[str, list[Batch]]]:
    """Jargon to learn from, and the held-out batches of both texts."""
    _, tokenizer = load_tiny_gpt()
    entries = ["\n".join(entry["text"] for entry in data.jargon()[start::10]) for start in range(10)]
    unseen = {"jargon": entries[0], "austen": data.austen()[data.AUSTEN_HELD_OUT]}
    held_out = {
        name: consecutive_windows(tokenizer.encode(text)[:8192], batch_size=16, length=128)
        for name, text in unseen.items()
    }
    return tokenizer.encode("\n".join(entries[1:])), held_out


def perplexities(model: nn.Module) -> dict[str, float]:
    return {name: math.exp(evaluate_loss(model, batches)) for name, batches in texts()[1].items()}


def adapt(
    prepare: Callable[[Decoder], Any],
    learning_rate: float,
    seed: int = 0,
    steps: int = STEPS,
    batch: int = BATCH,
    tokens: int | None = None,
    settings: Callable[[Decoder], dict[str, Any]] = lambda model: {},
    look: Callable[[Decoder], dict[str, Any]] = lambda model: {},
) -> dict[str, Any]:
    """Perplexities after training, numbers trained and seconds of a step; NaN-free: a run that diverges says None.

    `prepare(model)` makes a fresh tiny GPT ready to train; `settings(model)` are further arguments of `train`, and
    `look(model)` is what else is measured of the trained model. The seed fixes the adapter's start and the order of the
    data: windows of LENGTH tokens, `batch` a step, out of the first `tokens` of the text, or out of all.
    """
    model = load_tiny_gpt()[0]
    torch.manual_seed(seed)
    prepare(model)
    trained = sum(parameter.numel() for parameter in trainable_parameters(model))
    batches = windows(texts()[0][:tokens], batch_size=batch, length=LENGTH, seed=seed)
    started = time.perf_counter()
    try:
        history = train(
            model, batches, steps=steps, learning_rate=learning_rate, bar=iter, seed=seed, **settings(model)
        )
    except ValueError as error:
        if "the loss is" not in str(error):
            raise
        return {"jargon": None, "austen": None, "trained": trained, "seconds": time.perf_counter() - started}
    return perplexities(model) | {"trained": trained, "seconds": history.seconds} | look(model)
