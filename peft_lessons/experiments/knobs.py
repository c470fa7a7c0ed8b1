"""Learning rate, α, rank, targets, rsLoRA and LoRA+: the tiny GPT learns hacker slang in 60 steps. One seed.

`part` says which knob a row turns: "grid" (rank × α × learning rate), "targets", "rank" (LoRA and rsLoRA at one α) or
"ratio" (LoRA+).
"""

from typing import Any

from peft_lessons.adapters import inject
from peft_lessons.experiments._jargon import adapt
from peft_lessons.linear import LLAMA_LINEAR_LAYERS
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.lora_plus import lora_plus_groups
from peft_lessons.models.decoder import Decoder

RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
ALPHAS = (2, 8, 32, 128)
RANKS = (1, 4, 16, 64)
TARGETS = {
    "q, v": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "MLP": ("gate_proj", "up_proj", "down_proj"),
    "all": LLAMA_LINEAR_LAYERS,
}
RATIOS = (1, 4, 16)


def cases() -> list[dict[str, Any]]:
    fixed: dict[str, Any] = {"rank": 8, "alpha": 32, "targets": "all", "rank_stabilized": False, "ratio": 1}
    parts: dict[str, list[dict[str, Any]]] = {
        "grid": [{"rank": rank, "alpha": alpha} for rank in RANKS for alpha in ALPHAS],
        "targets": [{"targets": targets} for targets in TARGETS],
        "rank": [{"rank": rank, "rank_stabilized": True} for rank in RANKS],
        "ratio": [{"ratio": ratio} for ratio in RATIOS],
    }
    return [
        {"part": part, "learning_rate": rate, **fixed, **change}
        for part, changes in parts.items()
        for change in changes
        for rate in RATES
    ]


def measure(
    part: str, learning_rate: float, rank: int, alpha: float, targets: str, rank_stabilized: bool, ratio: float
) -> dict[str, Any]:
    config = LoRAConfig(rank=rank, alpha=alpha, targets=TARGETS[targets], rank_stabilized=rank_stabilized)

    def settings(model: Decoder) -> dict[str, Any]:
        return {"groups": lora_plus_groups(model, learning_rate=learning_rate, ratio=ratio)}

    return adapt(lambda model: inject(model, config), learning_rate, settings=settings)
