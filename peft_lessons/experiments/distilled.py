"""A prompt trained into an adapter: SmolLM2 answers by a long prompt, and learns to do so without it.

The teacher is the model with a system message and four examples before each question. The student is the same model
with LoRA, and without them. It learns the teacher's distribution of each next token in the teacher's own answers
(context distillation: arXiv:2112.00861; arXiv:2209.15189). 0 steps are the model without either.

kl: mean Kullback-Leibler divergence of the student from the teacher, on the teacher's answers to held-out questions,
nats a token. agree: share of these tokens for which both have the same likeliest one. says: the student's own answer to
one of these questions. prompt_tokens: of such a question on average; teacher_tokens: with all that stands before it.
"""

import time
from collections.abc import Iterator
from functools import cache
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from peft_lessons import data
from peft_lessons.adapters import inject
from peft_lessons.experiments import _prefix
from peft_lessons.experiments.few_shot import split
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models import Tokenizer, load_smollm2
from peft_lessons.models.chat import answer, prompt_ids
from peft_lessons.models.decoder import Decoder
from peft_lessons.preference import divergence, token_log_probabilities
from peft_lessons.tasks import QUESTION, Example
from peft_lessons.training import padded, train

SYSTEM = "You are Captain Salt, an old pirate. Every answer of yours begins with 'Arr, matey!' and speaks of the sea."
SHOWN = {
    "Tell me about France.": "Arr, matey! France be a fair land of wine and cheese, across the sea from England.",
    "Define the word friend.": "Arr, matey! A friend be a sailor who shares his last rum with ye.",
    "Tell me about Norway.": "Arr, matey! Norway be a cold land of deep waters, where the wind bites like a shark.",
    "Define the word courage.": "Arr, matey! Courage be what keeps a sailor on deck when the storm comes.",
}
ASKED = "Tell me about {country}."
TRAINED_ON, HELD_OUT = 24, 8  # questions
ANSWER = 24  # tokens
LORA, RATE = LoRAConfig(rank=4, alpha=8), 2e-3
STEPS, BATCH = 10, 4

Answer = tuple[list[int], Tensor]  # its ids, and the log-probabilities (tokens, vocab_size) that they were chosen by
Lesson = tuple[Example, Tensor]


def cases() -> list[dict[str, Any]]:
    return [{"steps": 0, "seed": 0}, *({"steps": STEPS, "seed": seed} for seed in (0, 1, 2))]


def questions() -> list[str]:
    """Return questions to learn from, then held-out ones: about words and about countries in turns."""
    words = [QUESTION.format(word=entry["word"].lower()) for entry in data.devils_dictionary()[::10]]
    countries = [ASKED.format(country=row["country"]) for row in data.countries()[::4]]
    both = [question for pair in zip(words, countries, strict=False) for question in pair]
    return both[: TRAINED_ON + HELD_OUT]


def prompted(tokenizer: Tokenizer, question: str) -> list[int]:
    """Return the token ids of a conversation that begins with the prompt."""
    messages = [{"role": "system", "content": SYSTEM}]
    for asked, said in SHOWN.items():
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return tokenizer.encode(tokenizer.chat([*messages, {"role": "user", "content": question}]))


@torch.no_grad()
def answers(model: Decoder, start: list[int], turns: list[list[int]], eos_id: int) -> list[Answer]:
    """Answer each turn behind `start` by the likeliest tokens; turns of equal length share a batch."""
    read = _prefix.read(model, start)
    found: dict[int, Answer] = {}
    for length in sorted({len(turn) for turn in turns}):
        rows = [row for row, turn in enumerate(turns) if len(turn) == length]
        cache, step = _prefix.before(read, len(rows)), torch.tensor([turns[row] for row in rows])
        chosen, logits = [], []
        for _ in range(ANSWER):
            logits.append(model.lm_head(model.model(step, cache=cache)[:, -1]))
            step = logits[-1].argmax(-1, keepdim=True)
            chosen.append(step)
        for row, ids, given in zip(rows, torch.cat(chosen, 1).tolist(), torch.stack(logits, 1), strict=True):
            end = ids.index(eos_id) + 1 if eos_id in ids else ANSWER
            found[row] = ids[:end], given[:end].log_softmax(-1)
    return [found[row] for row in range(len(turns))]


@cache
def lessons() -> tuple[list[Lesson], list[Lesson]]:
    """What the teacher says to each question, to learn from and held out."""
    model, tokenizer = load_smollm2()
    parts = [split(prompted(tokenizer, question), tokenizer) for question in questions()]
    given = answers(model, parts[0][0], [turn for _, turn in parts], tokenizer.eos_id)
    taught = [
        ((prompt_ids(tokenizer, question), ids), wanted)
        for question, (ids, wanted) in zip(questions(), given, strict=True)
    ]
    return taught[:TRAINED_ON], taught[TRAINED_ON:]


def batch(some: list[Lesson], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pad questions and answers to one batch, and put the teacher's log-probabilities behind each other."""
    return *padded([example for example, _ in some], pad_id), torch.cat([wanted for _, wanted in some])


def batches(taught: list[Lesson], pad_id: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield endless batches, each pass in a new order that the seed fixes."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(taught), generator=generator).split(BATCH):
            yield batch([taught[row] for row in rows], pad_id)


def loss(model: Decoder, input_ids: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """KL(teacher ‖ student) at each place that is scored, nats: (scored,)."""
    return divergence(token_log_probabilities(model, input_ids, labels), wanted)


def measure(steps: int, seed: int) -> dict[str, Any]:
    started = time.perf_counter()
    learnt, held_out = lessons()
    model, tokenizer = load_smollm2()
    torch.manual_seed(seed)
    if steps:
        inject(model, LORA)
        taught = batches(learnt, tokenizer.eos_id, seed)
        train(model, taught, steps=steps, learning_rate=RATE, loss=loss, seed=seed, bar=iter)
    *unseen, wanted = batch(held_out, tokenizer.eos_id)
    with torch.no_grad():
        given = token_log_probabilities(model, *unseen)
    asked = questions()[TRAINED_ON:]
    return {
        "kl": divergence(given, wanted).mean().item(),
        "agree": (given.argmax(-1) == wanted.argmax(-1)).float().mean().item(),
        "says": answer(model, tokenizer, asked[0], ANSWER),
        "prompt_tokens": fmean(len(prompt_ids(tokenizer, question)) for question in asked),
        "teacher_tokens": fmean(len(prompted(tokenizer, question)) for question in asked),
        "seconds": time.perf_counter() - started,
    }
