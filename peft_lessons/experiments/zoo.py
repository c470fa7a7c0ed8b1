"""Every method on one task: the tiny GPT learns hacker slang in 60 steps, at four to six learning rates, three seeds.

The rates of each method lie a factor of about three apart, around its best one. Peak bytes are those of the tensors
alive in a step of 8 × 64 tokens.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.accounting.measured import TensorMemory
from peft_lessons.adapters import inject, trainable_parameters
from peft_lessons.experiments._jargon import BATCH, LENGTH, STEPS, adapt, perplexities
from peft_lessons.methods.adalora import AdaLoRAConfig, RankAllocator
from peft_lessons.methods.bitfit import BitFitConfig
from peft_lessons.methods.bottleneck import ParallelAdapterConfig, SerialAdapterConfig
from peft_lessons.methods.dora import DoRAConfig
from peft_lessons.methods.ia3 import IA3Config
from peft_lessons.methods.layer_norm import LayerNormTuningConfig
from peft_lessons.methods.loha import LoHaConfig
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.lora_fa import LoRAFAConfig
from peft_lessons.methods.lora_plus import lora_plus_groups
from peft_lessons.methods.oft import OFTConfig
from peft_lessons.methods.partial import full_fine_tuning, head_only, last_layers
from peft_lessons.methods.pissa import PiSSAConfig
from peft_lessons.methods.prefix import PrefixTuningConfig
from peft_lessons.methods.prompt import PromptTuningConfig
from peft_lessons.methods.vera import VeRAConfig
from peft_lessons.models import load_tiny_gpt
from peft_lessons.models.decoder import Decoder
from peft_lessons.training import language_model_loss

CONFIGS = {
    "LoRA": LoRAConfig(rank=8, alpha=16),
    "rsLoRA": LoRAConfig(rank=8, alpha=16, rank_stabilized=True),
    "LoRA+": LoRAConfig(rank=8, alpha=16),
    "LoRA-FA": LoRAFAConfig(rank=8, alpha=16),
    "PiSSA": PiSSAConfig(rank=8, alpha=16),
    "DoRA": DoRAConfig(rank=8, alpha=16),
    "AdaLoRA": AdaLoRAConfig(
        rank=12, target_rank=8, alpha=16, total_steps=STEPS, warmup_steps=10, final_steps=STEPS // 3
    ),
    "VeRA": VeRAConfig(rank=128),
    "LoHa": LoHaConfig(rank=8),
    "OFT": OFTConfig(block_size=16),
    "IA³": IA3Config(),
    "BitFit": BitFitConfig(),
    "LayerNorm tuning": LayerNormTuningConfig(),
    "serial adapter": SerialAdapterConfig(),
    "parallel adapter": ParallelAdapterConfig(),
    "prompt tuning": PromptTuningConfig(tokens=16),
    "prefix tuning": PrefixTuningConfig(tokens=16),
}
PARTIAL: dict[str, Callable[[Decoder], Any]] = {
    "full fine-tuning": full_fine_tuning,
    "last layer": lambda model: last_layers(model, 1),
    "head only": head_only,
}
METHODS = (*PARTIAL, *CONFIGS)
USUAL = (0.003, 0.01, 0.03, 0.1)
LOWER = (0.001, 0.003, 0.01, 0.03)
HIGHER = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RATES = {name: USUAL for name in METHODS} | {
    "full fine-tuning": (0.0003, 0.001, 0.003, 0.01),
    "LoRA+": (0.0003, *LOWER),
    **dict.fromkeys(("last layer", "head only", "PiSSA", "rsLoRA", "OFT"), LOWER),
    **dict.fromkeys(("VeRA", "BitFit", "LayerNorm tuning", "IA³", "prefix tuning", "prompt tuning"), HIGHER),
}


def cases() -> list[dict[str, Any]]:
    return [
        {"method": method, "learning_rate": rate, "seed": seed}
        for method in METHODS
        for rate in RATES[method]
        for seed in (0, 1, 2)
    ]


def prepare(method: str, model: Decoder) -> None:
    """Make the model ready to train with this method. Raises ValueError that lists the methods if none is called so."""
    if method in PARTIAL:
        PARTIAL[method](model)
    elif method in CONFIGS:
        inject(model, CONFIGS[method])
    else:
        raise ValueError(f"no method is called {method!r}; there are {', '.join(METHODS)}")


def measure(method: str, learning_rate: float, seed: int) -> dict[str, Any]:
    def settings(model: Decoder) -> dict[str, Any]:
        if method == "LoRA+":
            return {"groups": lora_plus_groups(model, learning_rate=learning_rate, ratio=16)}
        if method == "AdaLoRA":
            return {"after_step": RankAllocator(model).step}
        return {}

    return adapt(lambda model: prepare(method, model), learning_rate, seed, settings=settings)


def untouched() -> dict[str, float]:
    """Perplexities before training."""
    return perplexities(load_tiny_gpt()[0])


def peak_bytes(method: str) -> int:
    """Bytes of all tensors alive at the worst moment of two training steps."""
    model = load_tiny_gpt()[0]
    prepare(method, model)
    ids = torch.randint(model.config.vocab_size, (BATCH, LENGTH))
    optimizer = torch.optim.AdamW(trainable_parameters(model.train()), lr=1e-4)
    with TensorMemory(model) as memory:
        for _ in range(2):
            optimizer.zero_grad()
            language_model_loss(model, ids, ids).backward()
            optimizer.step()
    return memory.peak
