"""Examples in the prompt in place of training: SmolLM2 writes the records of `laptop` with 0, 1, 3 or 5 of them shown.

The examples shown are earlier turns of the chat, drawn by the seed from those that adapters train on. known, new: 1 for
each of the first held-out countries whose greedy answer is the wanted record to the last character, as in `laptop`.
tokens_right: share of these answers' tokens that are the likeliest ones, each after the wanted ones before it.
prompt_tokens, answer_tokens: what a request has on average.
"""

import random
import time
from functools import cache
from statistics import fmean
from typing import Any

from peft_lessons.experiments import _prefix, laptop
from peft_lessons.models import Tokenizer
from peft_lessons.models.decoder import Decoder
from peft_lessons.tasks import Example, country_records

SHOTS = (0, 1, 3, 5)
COUNTRIES = 24


def cases() -> list[dict[str, Any]]:
    return [{"shots": shots, "seed": seed} for shots in SHOTS for seed in ((0, 1, 2) if shots else (0,))]


def split(prompt: list[int], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Take a prompt apart: what stands before its last question, and that question with the beginning of an answer."""
    (start,) = tokenizer.encode("<|im_start|>")
    *_, place, _ = (place for place, token in enumerate(prompt) if token == start)
    return prompt[:place], prompt[place:]


def shown(examples: list[Example], tokenizer: Tokenizer) -> list[int]:
    """Write the system message and these examples as a chat, up to where the next question begins."""
    system, _ = split(country_records(tokenizer).train[0][0], tokenizer)
    line = tokenizer.encode("\n")
    return [*system, *(token for prompt, answer in examples for token in split(prompt, tokenizer)[1] + answer + line)]


@cache
def untouched() -> tuple[Decoder, Tokenizer]:
    return laptop.prepare("none")


def requests(shots: int, seed: int, tokenizer: Tokenizer) -> tuple[list[int], list[Example]]:
    """Return what all requests begin with, and the questions behind it: in known forms, then in the new one."""
    examples = country_records(tokenizer)
    prefix = shown(random.Random(seed).sample(examples.train, max(SHOTS))[:shots], tokenizer)
    asked = examples.held_out[:COUNTRIES] + examples.new_form[:COUNTRIES]
    return prefix, [(split(prompt, tokenizer)[1], answer) for prompt, answer in asked]


def measure(shots: int, seed: int) -> dict[str, Any]:
    started = time.perf_counter()
    model, tokenizer = untouched()
    prefix, asked = requests(shots, seed, tokenizer)
    shares = laptop.likeliest(model, asked, tokenizer.eos_id, _prefix.read(model, prefix))
    right = [int(share == 1) for share in shares]
    answers = [len(answer) for _, answer in asked]
    return {
        "known": right[:COUNTRIES],
        "new": right[COUNTRIES:],
        "tokens_right": fmean(shares, weights=answers),
        "prompt_tokens": len(prefix) + fmean(len(turn) for turn, _ in asked),
        "answer_tokens": fmean(answers),
        "seconds": time.perf_counter() - started,
    }
