"""What full fine-tuning changed: the singular values of ΔW, and how much of the learning its leading directions carry.

SmolLM2 learns the Devil's Dictionary in full, 60 steps. Of each of the 210 matrices of its layers the change
ΔW = W after − W before is taken apart. A row says, for one rank, the perplexity when every ΔW is cut to that rank (all
else as trained), and the share of ‖ΔW‖² that the cut keeps, matrix by matrix in the order of the model. Rank 0 is the
base with what else was trained (norms and embedding), rank 576 the whole change.
"""

import time
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.experiments._definitions import learn, perplexity
from peft_lessons.methods.partial import full_fine_tuning
from peft_lessons.models import load_smollm2
from peft_lessons.models.decoder import Decoder

RANKS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 576)
STEPS, RATE = 60, 1e-4


def cases() -> list[dict[str, Any]]:
    return [{"rank": rank} for rank in RANKS]


def matrices(model: Decoder) -> dict[str, Tensor]:
    """Return the weights of the linear layers in the blocks, by name."""
    return {name: m.weight for name, m in model.model.layers.named_modules() if isinstance(m, nn.Linear)}


@cache
@torch.no_grad()
def changes() -> tuple[Decoder, dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """Return the trained model, and for each matrix W before and ΔW = U diag(S) Vᵀ."""
    with torch.enable_grad():
        trained, _ = learn(full_fine_tuning, RATE, steps=STEPS)
    before = matrices(load_smollm2()[0])
    parts = {}
    for name, after in matrices(trained).items():
        parts[name] = (before[name], *torch.linalg.svd(after - before[name], full_matrices=False))
    return trained, parts


@torch.no_grad()
def measure(rank: int) -> dict[str, Any]:
    started = time.perf_counter()
    model, parts = changes()
    kept = []
    for name, weight in matrices(model).items():
        base, U, S, Vh = parts[name]
        weight.copy_(base + (U[:, :rank] * S[:rank]) @ Vh[:rank])
        kept.append((S[:rank].square().sum() / S.square().sum()).item())
    return {"perplexity": perplexity(model), "kept": kept, "seconds": time.perf_counter() - started}
