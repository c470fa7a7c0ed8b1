"""A typeface from a few letters: the drawing model learns one that it has never seen, in 80 steps of 16 pictures.

Learning rates are tuned on one family ("rate" rows), for each method and place, and used on four others with two seeds.
By part: "method", four methods on 19 letters; "rank"; "letters", LoRA of rank 8 on 1 to 40 letters; "where", LoRA on
some layers alone. Twelve letters are in no run's training.

before, held_out: flow-matching loss on these twelve, with the same noise, eight times from early to late; trained: on
the letters that were learnt. read: of twice twelve drawings, the share that a network reads as the letter that was
asked for; recognized: the share whose style it takes for this typeface's, of ten. drawn: the twelve as they were drawn,
a string of hexadecimal digits each, for one seed of "letters".
"""

import time
from functools import cache
from typing import Any

import torch
from torch import Tensor

from peft_lessons.adapters import inject, trainable_parameters
from peft_lessons.methods.dora import DoRAConfig
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.oft import OFTConfig
from peft_lessons.methods.partial import full_fine_tuning
from peft_lessons.models.diffusion import (
    DiffusionTransformer,
    draw,
    flow_batches,
    flow_evaluation,
    flow_matching_loss,
)
from peft_lessons.models.letter_reader import LetterReader, load_letter_reader
from peft_lessons.models.letters import LETTERS, letter_ids, load_letters
from peft_lessons.tasks import LETTER_LORA, TRAINED_LETTERS, digits_of, letters_of, typeface, typeface_names
from peft_lessons.training import evaluate_loss, train

STEPS, BATCH, SHIFT = 80, 16, 1
TUNED_ON = "Kristi"
FACES = ("dkg", "Dancing Script", "Courier Prime", "Lobster")
UNSEEN = "CJKQVZfkqwyz"  # in no run's training
SETS = ("a", "aHg", "aHgRs", "aHgRsBnepM", TRAINED_LETTERS, "".join(x for x in LETTERS if x not in UNSEEN))
WHERE = {  # where LoRA alone trains, at ranks of about as many numbers as rank 8 has on all three
    "attention": ("LoRA, rank 31", ("qkv", "proj")),
    "feed-forward": ("LoRA, rank 18", ("up", "down")),
    "modulation": ("LoRA, rank 26", ("modulation",)),
}
RATES = {  # tried on one family, by method and place; the first is the best
    ("LoRA, rank 1", "all"): (1e-2, 3e-3, 3e-2),
    ("LoRA, rank 2", "all"): (1e-2, 3e-3, 3e-2),
    ("LoRA, rank 4", "all"): (1e-2, 3e-3, 3e-2, 1e-3),
    ("LoRA, rank 8", "all"): (4e-3, 1.3e-3, 1.2e-2),
    ("LoRA, rank 16", "all"): (3e-3, 1e-3, 1e-2),
    ("LoRA, rank 32", "all"): (1e-3, 3e-4, 3e-3, 1e-2),
    ("LoRA, rank 64", "all"): (1e-3, 3e-4, 3e-3),
    ("LoRA, rank 31", "attention"): (3e-3, 1e-3, 1e-2),
    ("LoRA, rank 18", "feed-forward"): (3e-3, 1e-3, 1e-2),
    ("LoRA, rank 26", "modulation"): (3e-3, 1e-3, 1e-2),
    ("DoRA, rank 8", "all"): (3e-3, 1e-3, 1e-2),
    ("OFT, blocks of 32", "all"): (1e-3, 3e-4, 3e-3),
    ("full", "all"): (3e-4, 1e-4, 1e-3),
}
METHODS = ("LoRA, rank 8", "DoRA, rank 8", "OFT, blocks of 32", "full")
RANKS = (1, 2, 4, 16, 32, 64)
SEEDS = (0, 1)


def cases() -> list[dict[str, Any]]:
    lora = ("LoRA, rank 8", "all")
    parts: dict[str, list[tuple[tuple[str, str], int]]] = {
        "method": [((method, "all"), 19) for method in METHODS],
        "rank": [((f"LoRA, rank {rank}", "all"), 19) for rank in RANKS],
        "letters": [(lora, len(some)) for some in SETS],
        "where": [((method, where), 19) for where, (method, _) in WHERE.items()],
    }
    tuning = [
        _case("rate", TUNED_ON, *what, letters=19, learning_rate=rate, seed=0)
        for what, rates in RATES.items()
        for rate in rates
    ]
    return tuning + [
        _case(part, face, *what, letters=letters, learning_rate=RATES[what][0], seed=seed)
        for part, some in parts.items()
        for what, letters in some
        for face in FACES
        for seed in SEEDS
    ]


def _case(part: str, face: str, method: str, where: str, **others: float) -> dict[str, Any]:
    return {"part": part, "face": face, "method": method, "where": where, **others}


def name_of(face: str) -> str:
    """The first typeface of a family."""
    return next(name for name in typeface_names() if name.startswith(face))


def prepare(method: str, where: str) -> DiffusionTransformer:
    """The base, ready to train. Raises ValueError for a method that is not there."""
    model = load_letters()
    targets = LETTER_LORA.targets if where == "all" else WHERE[where][1]
    name, _, size = method.partition(", ")
    number = int(size.split()[-1]) if size else 0
    if name == "full":
        full_fine_tuning(model)
    elif name == "OFT":
        inject(model, OFTConfig(block_size=number, targets=targets))
    elif name in ("LoRA", "DoRA"):
        inject(model, {"LoRA": LoRAConfig, "DoRA": DoRAConfig}[name](rank=number, alpha=2 * number, targets=targets))
    else:
        raise ValueError(f"no method is called {method!r}; there are {', '.join(method for method, _ in RATES)}")
    return model


@cache
def reader() -> tuple[LetterReader, dict[str, Tensor]]:
    return load_letter_reader(), {name: typeface(name) for name in typeface_names()}


def judged(model: DiffusionTransformer, name: str) -> tuple[dict[str, float], Tensor]:
    """How often drawings of the unseen letters are read and recognized, and the drawings of the first seed."""
    labels = letter_ids(UNSEEN)
    judge, faces = reader()
    drawn = [draw(model, labels, seed=seed) for seed in (0, 1)]
    pictures = torch.cat(drawn)
    read = (judge.read(pictures) == labels.repeat(2)).float().mean().item()
    recognized = sum(found == name for found in judge.recognize(pictures, faces)) / len(pictures)
    return {"read": read, "recognized": recognized}, drawn[0]


def measure(
    part: str, face: str, method: str, where: str, letters: int, learning_rate: float, seed: int
) -> dict[str, Any]:
    name = name_of(face)
    (learnt,) = (some for some in SETS if len(some) == letters)
    split = letters_of(name, learnt)
    twelve = flow_evaluation(typeface(name)[letter_ids(UNSEEN)], letter_ids(UNSEEN))
    torch.manual_seed(seed)
    model = prepare(method, where)
    before = evaluate_loss(model, twelve, flow_matching_loss)
    started = time.perf_counter()
    train(
        model,
        flow_batches(*split.train, batch_size=BATCH, seed=seed, shift=SHIFT),
        steps=STEPS,
        learning_rate=learning_rate,
        seed=seed,
        loss=flow_matching_loss,
        bar=iter,
    )
    seconds = time.perf_counter() - started
    shares, drawn = judged(model, name)
    return {
        "before": before,
        "held_out": evaluate_loss(model, twelve, flow_matching_loss),
        "trained": evaluate_loss(model, flow_evaluation(*split.train), flow_matching_loss),
        **shares,
        "numbers": sum(parameter.numel() for parameter in trainable_parameters(model)),
        "drawn": digits_of(drawn) if part == "letters" and not seed else [],
        "seconds": seconds,
    }
