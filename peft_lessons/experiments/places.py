"""What is trained where: full fine-tuning and LoRA on the same matrices of the tiny GPT, and with its embedding.

The task is the zoo's: 60 steps on hacker slang. Full fine-tuning trains the embedding, which is the output head, too;
LoRA as it is usually set does not. Here each of them does it both ways, at several learning rates and three seeds.

kl: mean Kullback-Leibler divergence of the model from its base on Austen, nats a token. intruders: of the ten leading
left singular vectors of each of the 28 matrices, those whose product with every old one is below 0.5, 0.6 and 0.7.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peft_lessons.adapters import inject, merge, named_adapters, trainable_parameters
from peft_lessons.experiments._jargon import adapt, texts
from peft_lessons.experiments.spectrum import matrices
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.partial import full_fine_tuning
from peft_lessons.models import load_tiny_gpt
from peft_lessons.models.decoder import Decoder

RANKS = {"LoRA, rank 8": (8, 16), "LoRA, rank 64": (64, 128)}  # rank, α
EMBEDDING_RATE = 0.001  # full fine-tuning's good rate
RATES = {
    "full": (0.0003, 0.001, 0.003),
    "full, matrices only": (0.001, 0.002, 0.003),
    "LoRA, rank 8": (0.003, 0.01, 0.02),
    "LoRA, rank 64": (0.002, 0.003, 0.005),
    "LoRA, rank 8, and embedding": (0.003, 0.01),
    "LoRA, rank 64, and embedding": (0.001, 0.003),
}
THRESHOLDS = (0.5, 0.6, 0.7)


def cases() -> list[dict[str, Any]]:
    return [
        {"trained_in": trained_in, "learning_rate": rate, "seed": seed}
        for trained_in, rates in RATES.items()
        for rate in rates
        for seed in (0, 1, 2)
    ]


def prepare(trained_in: str, model: Decoder) -> None:
    """Make the model ready to train. Raises ValueError that lists the ways when there is none of this name."""
    if trained_in not in RATES:
        raise ValueError(f"nothing is called {trained_in!r}; there are {', '.join(RATES)}")
    if trained_in == "full":
        full_fine_tuning(model)
    elif trained_in == "full, matrices only":
        model.requires_grad_(False)
        for weight in matrices(model).values():
            weight.requires_grad_(True)
    else:
        rank, alpha = RANKS[trained_in.removesuffix(", and embedding")]
        inject(model, LoRAConfig(rank=rank, alpha=alpha))
        model.model.embed_tokens.requires_grad_(trained_in.endswith("embedding"))


def measure(trained_in: str, learning_rate: float, seed: int) -> dict[str, Any]:
    def settings(model: Decoder) -> dict[str, Any]:
        if not trained_in.endswith("embedding"):
            return {}
        embedding = model.model.embed_tokens.weight
        adapters = [parameter for parameter in trainable_parameters(model) if parameter is not embedding]
        return {"groups": [{"params": adapters, "lr": learning_rate}, {"params": [embedding], "lr": EMBEDDING_RATE}]}

    def look(model: Decoder) -> dict[str, Any]:
        kl = divergence(model)
        if any(named_adapters(model)):
            merge(model)
        return {"kl": kl, "intruders": [sum(count) for count in zip(*intruders(model), strict=True)]}

    return adapt(lambda model: prepare(trained_in, model), learning_rate, seed, settings=settings, look=look)


@torch.no_grad()
def divergence(model: Decoder) -> float:
    """Mean KL(base ‖ model) over the held-out tokens of Austen, nats."""
    base, kept = load_tiny_gpt()[0], [ids for ids, _ in texts()[1]["austen"]]
    each = [
        F.kl_div(model(ids).log_softmax(-1), base(ids).log_softmax(-1), reduction="none", log_target=True).sum(-1)
        for ids in kept
    ]
    return torch.cat(each).mean().item()


def intruders(model: Decoder) -> list[list[int]]:
    """For each matrix, how many of its ten leading left singular vectors are new, at each threshold."""
    counts = []
    for name, weight in matrices(model).items():
        new = torch.linalg.svd(weight.detach()).U[:, :10]
        likeness = (old_directions()[name].T @ new).abs().amax(dim=0)
        counts.append([int((likeness < threshold).sum()) for threshold in THRESHOLDS])
    return counts


@cache
def old_directions() -> dict[str, Tensor]:
    """Compute the left singular vectors of the untouched matrices."""
    return {name: torch.linalg.svd(weight.detach()).U for name, weight in matrices(load_tiny_gpt()[0]).items()}
