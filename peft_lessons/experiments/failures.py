"""Nine trainings of SmolLM2 on the records of `laptop`, thirty steps of LoRA each: one is sound, eight have a fault.

The faults are of the data (FAULTS says how each makes a batch of four examples) or of the rate. losses: of each step,
as the run itself scores it. held_out: nats a token of held-out answers, scored as they should be. known: 1 for each
held-out country whose greedy answer is the wanted record to the last character, as in `laptop`. ended: of the first
six held-out countries, for how many the answer ends within 64 tokens. says: what it answers to the first three.
"""

import random
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from peft_lessons.adapters import inject
from peft_lessons.experiments import laptop
from peft_lessons.models import Tokenizer, generate, load_smollm2
from peft_lessons.models.decoder import Decoder
from peft_lessons.tasks import Countries, Example, country_records
from peft_lessons.training import IGNORED, Batch, evaluate_loss, padded, train

STEPS, RATE = 30, 2e-3  # the good rate of `laptop`
RATES = {"a rate of 5e-7": 5e-7, "a rate of 0.1": 0.1}
FILLED = 192  # tokens of a row
ASKED, LONGEST = 6, 64  # countries, tokens of an answer


def _prompt_scored(examples: list[Example], end: int) -> Batch:
    input_ids, _ = padded(examples, end)
    lengths = torch.tensor([len(prompt) + len(answer) for prompt, answer in examples])
    return input_ids, input_ids.where(torch.arange(input_ids.shape[1]) < lengths[:, None], IGNORED)


def _padding_scored(examples: list[Example], end: int) -> Batch:
    """Fill all rows up to one length, as is common, and score the filling as if it were an answer."""
    return padded([(prompt, answer + [end] * (FILLED - len(prompt + answer))) for prompt, answer in examples], end)


def _no_end_token(examples: list[Example], end: int) -> Batch:
    return padded([(prompt, answer[:-1]) for prompt, answer in examples], end)


def _labels_shifted_twice(examples: list[Example], end: int) -> Batch:
    """Shift the labels, as one does for a loss that does not shift them itself."""
    input_ids, labels = padded(examples, end)
    return input_ids, F.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _no_template(examples: list[Example], end: int) -> Batch:
    """Give the bare question and a new line in place of the chat template."""
    return padded([(bare_question(prompt), answer) for prompt, answer in examples], end)


# How a run makes a batch of its examples and the end token.
FAULTS: dict[str, Callable[[list[Example], int], Batch]] = {
    "none": padded,
    "the prompt is scored": _prompt_scored,
    "padding is scored": _padding_scored,
    "no end token": _no_end_token,
    "labels shifted twice": _labels_shifted_twice,
    "no chat template": _no_template,
    "one example again and again": padded,
    **dict.fromkeys(RATES, padded),
}


def cases() -> list[dict[str, Any]]:
    return [{"fault": fault, "seed": 0} for fault in FAULTS]


@cache
def _tokenizer() -> Tokenizer:
    return load_smollm2()[1]


@cache
def examples() -> Countries:
    return country_records(_tokenizer())


def bare_question(prompt: list[int]) -> list[int]:
    """Take the last question out of a chat, and end it with a new line."""
    text = _tokenizer().decode(prompt, skip_special_tokens=False)
    _, _, question = text.rpartition("<|im_start|>user\n")
    return _tokenizer().encode(question.partition("<|im_end|>")[0] + "\n")


def batches(fault: str, seed: int) -> list[Batch]:
    """Return the batches of all steps. The same seed draws the same examples for each fault."""
    end, size = _tokenizer().eos_id, laptop.BATCH
    drawn = random.Random(seed).sample(examples().train, STEPS * size)
    if fault == "one example again and again":
        drawn = drawn[:1] * len(drawn)
    return [FAULTS[fault](drawn[step * size : (step + 1) * size], end) for step in range(STEPS)]


@torch.no_grad()
def answers(model: Decoder) -> list[list[int]]:
    """Return the greedy answers about the first held-out countries, as token ids."""
    end = _tokenizer().eos_id
    prompts = [prompt for prompt, _ in examples().held_out[:ASKED]]
    return [generate(model, torch.tensor([prompt]), LONGEST, eos_id=end)[0].tolist() for prompt in prompts]


def measure(fault: str, seed: int) -> dict[str, Any]:
    started = time.perf_counter()
    model, tokenizer = load_smollm2()
    torch.manual_seed(seed)
    inject(model, laptop.LORA)
    rate = RATES.get(fault, RATE)
    history = train(model, batches(fault, seed), steps=STEPS, learning_rate=rate, seed=seed, bar=iter)
    held_out = examples().held_out
    tested = [padded(held_out[start : start + 8], tokenizer.eos_id) for start in range(0, len(held_out), 8)]
    written = answers(model)
    return {
        "losses": history.losses,
        "held_out": evaluate_loss(model, tested),
        "known": laptop.exact(model, held_out, tokenizer.eos_id),
        "ended": sum(answer[-1] == tokenizer.eos_id for answer in written),
        "says": [tokenizer.decode(answer) for answer in written[:3]],
        "seconds": time.perf_counter() - started,
    }
