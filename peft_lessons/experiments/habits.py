"""The other settings of a run: batch, epochs, dropout, weight decay and warm-up. The tiny GPT learns hacker slang.

`part` says which of them a row turns. All runs of "batch" see the same number of windows, so that a larger batch means
fewer steps; each is made at four learning rates. The others have the usual rate of their method and batches of eight.
All have two seeds. "few" runs have SMALL tokens to learn from, which they see again and again: a step takes
512, so 8 steps are about one pass; the windows are drawn at random. Others learn from all of the text.
"""

from typing import Any

from peft_lessons.adapters import inject
from peft_lessons.experiments._jargon import BATCH, STEPS, adapt
from peft_lessons.experiments.places import RANKS, prepare
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models.decoder import Decoder

SMALL = 4096  # tokens
PASS = 8  # steps
BATCHES = (8, 32)
RATES = {
    "full, matrices only": (0.0003, 0.001, 0.003, 0.01),
    "LoRA, rank 8": (0.003, 0.01, 0.03, 0.1),
    "LoRA, rank 64": (0.001, 0.003, 0.01, 0.03),
}
USUAL = {"full, matrices only": 0.001, "LoRA, rank 8": 0.01}
PASSES = (1, 3, 10, 30)
DROPOUTS = (0.0, 0.05, 0.1, 0.3)
DECAYS = (0.0, 0.01, 0.1, 1.0)
WARMUPS = (0.0, 0.03, 0.1, 0.3)


def cases() -> list[dict[str, Any]]:
    fixed: dict[str, Any] = {"trained_in": "LoRA, rank 8", "learning_rate": USUAL["LoRA, rank 8"], "steps": STEPS}
    fixed |= {"batch": BATCH, "few": False, "dropout": 0.0, "weight_decay": 0.0, "warmup": 0.1}
    often = {"few": True, "steps": 10 * PASS}
    batches = [
        {"trained_in": trained_in, "learning_rate": rate, "batch": batch, "steps": STEPS * BATCH // batch}
        for trained_in, rates in RATES.items()
        for rate in rates
        for batch in BATCHES
    ]
    epochs = [
        {"trained_in": trained_in, "learning_rate": rate, "few": True, "steps": PASS * passes}
        for trained_in, rate in USUAL.items()
        for passes in PASSES
    ]
    parts: dict[str, list[dict[str, Any]]] = {
        "batch": batches,
        "epochs": epochs,
        "dropout": [more | {"dropout": dropout} for dropout in DROPOUTS for more in ({}, often)],
        "decay": [more | {"weight_decay": decay} for decay in DECAYS for more in ({}, often)],
        "warmup": [{"warmup": warmup, "learning_rate": rate} for warmup in WARMUPS for rate in (0.01, 0.03)],
    }
    return [
        {"part": part, **fixed, **change, "seed": seed}
        for part, changes in parts.items()
        for change in changes
        for seed in (0, 1)
    ]


def measure(
    part: str,
    trained_in: str,
    learning_rate: float,
    steps: int,
    batch: int,
    few: bool,
    dropout: float,
    weight_decay: float,
    warmup: float,
    seed: int,
) -> dict[str, Any]:
    def start(model: Decoder) -> None:
        if dropout:
            rank, alpha = RANKS[trained_in]
            inject(model, LoRAConfig(rank=rank, alpha=alpha, dropout=dropout))
        else:
            prepare(trained_in, model)

    return adapt(
        start,
        learning_rate,
        seed,
        steps,
        batch,
        SMALL if few else None,
        settings=lambda model: {"weight_decay": weight_decay, "warmup": warmup},
    )
