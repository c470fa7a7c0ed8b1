"""Intruders made smaller: LoRA of rank 8 learns hacker slang and forgets Austen, then its new directions are scaled.

The runs are those of `places` at its good rate. Intruders are those of the ten leading singular directions of a trained
matrix W + ΔW whose left vector has a product below 0.5 with every one of W. "intruders": their singular values are
multiplied by `scale` (arXiv:2410.21228), as peft's `reduce_intruder_dimension` does, which then cuts the change to its
old rank. "all": beside it, the whole of ΔW is multiplied by `scale`.

jargon, austen: perplexities, as in `places`; so are kl, and intruders at 0.5, of what is left.
"""

import time
from functools import cache
from typing import Any

import torch
from torch import Tensor

from peft_lessons.adapters import merge
from peft_lessons.experiments import places
from peft_lessons.experiments._jargon import adapt, perplexities
from peft_lessons.experiments.spectrum import matrices
from peft_lessons.models import load_tiny_gpt
from peft_lessons.models.decoder import Decoder

TRAINED_IN = "LoRA, rank 8"
LEADING, THRESHOLD = 10, places.THRESHOLDS[0]
RATE = 0.01
SCALES = {"intruders": (0.0, 0.5, 0.75, 1.0), "all": (0.5, 0.75)}


def cases() -> list[dict[str, Any]]:
    return [
        {"seed": seed, "scaled": scaled, "scale": scale}
        for seed in (0, 1, 2)
        for scaled, scales in SCALES.items()
        for scale in scales
    ]


@cache
def trained(seed: int) -> dict[str, Tensor]:
    """Return the matrices W + ΔW after training, by name."""

    def look(model: Decoder) -> dict[str, Any]:
        merge(model)
        return {"matrices": {name: weight.detach() for name, weight in matrices(model).items()}}

    return adapt(lambda model: places.prepare(TRAINED_IN, model), RATE, seed, look=look)["matrices"]


def shrink(after: Tensor, old_directions: Tensor, scale: float) -> Tensor:
    """Multiply the singular values of a matrix's intruders by `scale`; `old_directions` are U of the matrix before."""
    U, S, Vh = torch.linalg.svd(after, full_matrices=False)
    U, S, Vh = U[:, :LEADING], S[:LEADING], Vh[:LEADING]
    new = (old_directions.T @ U).abs().amax(dim=0) < THRESHOLD
    return after + (scale - 1) * (U[:, new] * S[new]) @ Vh[new]


@torch.no_grad()
def measure(seed: int, scaled: str, scale: float) -> dict[str, Any]:
    started = time.perf_counter()
    with torch.enable_grad():
        after = trained(seed)
    model = load_tiny_gpt()[0]
    for name, weight in matrices(model).items():
        if scaled == "intruders":
            weight.copy_(shrink(after[name], places.old_directions()[name], scale))
        else:
            weight.lerp_(after[name], scale)
    counts = [count[0] for count in places.intruders(model)]
    found = perplexities(model) | {"kl": places.divergence(model), "intruders": sum(counts)}
    return found | {"seconds": time.perf_counter() - started}
