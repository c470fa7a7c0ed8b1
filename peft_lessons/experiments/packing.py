"""Several examples in one row: the tiny GPT learns entries of the Jargon File, four a step, laid out in four ways.

rows: an entry a row, filled up to one length. by length: the same, but entries of like length share a batch, as
`shuffled` makes them. packed: the four of "rows" behind each other in one row, each token seeing its own entry alone.
one text: the same row without that, so that an entry sees those before it, some of them farther away than the 128
tokens that the model was trained on. LoRA of rank 8, 60 steps.

perplexity: of held-out entries, each alone. training_loss: mean over the last ten steps, nats a token. places:
positions that training computed; tokens: those that were no filling. seconds: of processor time in training.
"""

import math
import random
import statistics
import time
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peft_lessons import data
from peft_lessons.adapters import inject
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models import load_tiny_gpt
from peft_lessons.models.decoder import Context, Decoder, rotary_angles
from peft_lessons.tasks import Example
from peft_lessons.training import IGNORED, Batch, Loss, evaluate_loss, padded, shuffled, token_losses, train

STEPS, BATCH, LONGEST = 60, 4, 128  # tokens: four of the longest are as many as the model takes
LORA, RATE = LoRAConfig(rank=8, alpha=16), 0.01
PAD = 0  # any token: filling is neither scored nor seen


def packed(input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put the rows of a padded batch behind each other: ids, labels and which row a token is of, each (1, tokens).

    A row ends with its last label; what follows is filling.
    """
    ends = [int(row.nonzero().max()) + 1 for row in labels != IGNORED]
    numbers = [torch.full((end,), row) for row, end in enumerate(ends)]
    ids, kept = ([row[:end] for row, end in zip(rows, ends, strict=True)] for rows in (input_ids, labels))
    return torch.cat(ids)[None], torch.cat(kept)[None], torch.cat(numbers)[None]


def packed_losses(model: Decoder, input_ids: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
    """Cross-entropy of each label of one packed row, (scored,): a token sees those before it that have its number.

    Positions run on from one example to the next: rotary ones count by their differences alone.
    """
    visible = (numbers[0, :, None] == numbers[0]).tril()
    x = model.model.embed(input_ids)
    context = Context(*rotary_angles(0, x.shape[1], model.config, x), visible[None, None], None)
    for block in model.model.layers:
        x = block(x, context)
    targets = labels[:, 1:]
    scored = targets != IGNORED
    hidden = model.model.norm(x)[:, :-1][scored]
    return F.cross_entropy(model.lm_head(hidden), targets[scored], reduction="none")


# How a padded batch is laid out, and the loss of that.
LAYOUTS: dict[str, tuple[Callable[..., tuple[Tensor, ...]], Loss]] = {
    "rows": (lambda *batch: batch, token_losses),
    "by length": (lambda *batch: batch, token_losses),
    "packed": (packed, packed_losses),
    "one text": (lambda *batch: packed(*batch)[:2], token_losses),
}


def cases() -> list[dict[str, Any]]:
    return [{"layout": layout, "seed": seed} for layout in LAYOUTS for seed in (0, 1, 2)]


@cache
def entries() -> tuple[list[Example], list[Example]]:
    """Return entries to learn from and held-out ones. Their first token is given, all others are scored."""
    tokenizer = load_tiny_gpt()[1]
    coded = [tokenizer.encode(entry["text"])[:LONGEST] for entry in data.jargon()]
    examples = [(ids[:1], ids[1:]) for ids in coded]
    return [example for i, example in enumerate(examples) if i % 10], examples[::20]


def batches(layout: str, seed: int) -> list[Batch]:
    """Return the padded batches of all steps, before they are laid out."""
    learnt = entries()[0]
    if layout == "by length":
        return list(islice(shuffled(learnt, batch_size=BATCH, pad_id=PAD, seed=seed), STEPS))
    drawn = random.Random(seed).sample(learnt, STEPS * BATCH)
    return [padded(drawn[start : start + BATCH], PAD) for start in range(0, len(drawn), BATCH)]


def measure(layout: str, seed: int) -> dict[str, Any]:
    model, _ = load_tiny_gpt()
    torch.manual_seed(seed)
    inject(model, LORA)
    lay_out, loss = LAYOUTS[layout]
    rows = batches(layout, seed)
    laid_out = [lay_out(*batch) for batch in rows]
    started = time.process_time()
    history = train(model, laid_out, steps=STEPS, learning_rate=RATE, loss=loss, seed=seed, bar=iter)
    seconds = time.process_time() - started
    unseen = sorted(entries()[1], key=lambda example: len(example[1]))
    held_out = [padded(unseen[start : start + 16], PAD) for start in range(0, len(unseen), 16)]
    return {
        "perplexity": math.exp(evaluate_loss(model, held_out)),
        "training_loss": statistics.fmean(history.losses[-10:]),
        "places": sum(ids.numel() for ids, *_ in laid_out),
        "tokens": sum(packed(*batch)[0].numel() for batch in rows),
        "seconds": seconds,
    }
