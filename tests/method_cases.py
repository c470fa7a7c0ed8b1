"""Each method in the tests: a config, the same in Hugging Face peft, and how many numbers others count of it.

What is here goes through all that holds for every method: the contract, the comparison with peft, the planner's counts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import peft

from peft_lessons import (
    AdaLoRAConfig,
    AdapterConfig,
    BiasedLoRAConfig,
    BitFitConfig,
    DoRAConfig,
    IA3Config,
    LayerNormTuningConfig,
    LoftQConfig,
    LoHaConfig,
    LoKrConfig,
    LoRAConfig,
    LoRAFAConfig,
    MiSSConfig,
    OFTConfig,
    OLoRAConfig,
    ParallelAdapterConfig,
    PiSSAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SerialAdapterConfig,
    VeRAConfig,
)
from peft_lessons.linear import LLAMA_LINEAR_LAYERS


@dataclass(frozen=True)
class Case:
    """A method, or a variant of one, on the layers of a decoder."""

    config: AdapterConfig
    peft: Callable[[list[str]], Any] | None = None  # the same in peft, on modules of these names
    small: dict[str, Any] = field(default_factory=dict)  # what differs on the contract's two layers, 48 → 33 → 48


def lora(**settings: Any) -> Callable[[list[str]], Any]:
    return lambda targets: peft.LoraConfig(**{"r": 4, "lora_alpha": 12} | settings, target_modules=targets)


# By the names of peft_lessons/methods/registry.py; other names are variants. alpha differs from rank, so that each
# factor of the scaling is seen.
CASES: dict[str, Case] = {
    "lora": Case(LoRAConfig(rank=4, alpha=12), lora()),
    "lora-rank-1": Case(LoRAConfig(rank=1, alpha=3), lora(r=1, lora_alpha=3)),
    "lora-dropout": Case(LoRAConfig(rank=4, alpha=12, dropout=0.5)),
    "rslora": Case(LoRAConfig(rank=4, alpha=3, rank_stabilized=True), lora(lora_alpha=3, use_rslora=True)),
    "lora-bias": Case(BiasedLoRAConfig(rank=4, alpha=12), lora(lora_bias=True)),
    "lora-fa": Case(LoRAFAConfig(rank=4, alpha=12), lora()),
    "pissa": Case(PiSSAConfig(rank=4, alpha=12), lora(init_lora_weights="pissa")),
    "olora": Case(OLoRAConfig(rank=4, alpha=12), lora(init_lora_weights="olora")),
    "loftq": Case(LoftQConfig(rank=4, alpha=12, iterations=2)),
    "dora": Case(DoRAConfig(rank=4, alpha=12), lora(use_dora=True)),
    "adalora": Case(
        AdaLoRAConfig(rank=4, target_rank=2, alpha=12, total_steps=100),
        lambda targets: peft.AdaLoraConfig(init_r=4, target_r=2, lora_alpha=12, total_step=100, target_modules=targets),
    ),
    "vera": Case(VeRAConfig(rank=16), lambda targets: peft.VeraConfig(r=16, target_modules=targets)),
    "loha": Case(LoHaConfig(rank=4, alpha=12), lambda targets: peft.LoHaConfig(r=4, alpha=12, target_modules=targets)),
    "lokr": Case(LoKrConfig(rank=3, alpha=12), lambda targets: peft.LoKrConfig(r=3, alpha=12, target_modules=targets)),
    "lokr-whole": Case(
        LoKrConfig(rank=9, alpha=12), lambda targets: peft.LoKrConfig(r=9, alpha=12, target_modules=targets)
    ),
    "lokr-both": Case(
        LoKrConfig(rank=2, alpha=6, factor=8, decompose_both=True),
        lambda targets: peft.LoKrConfig(r=2, alpha=6, decompose_factor=8, decompose_both=True, target_modules=targets),
    ),
    "miss": Case(MiSSConfig(rank=8), lambda targets: peft.MissConfig(r=8, target_modules=targets), small={"rank": 5}),
    "miss-rest": Case(MiSSConfig(rank=7), lambda targets: peft.MissConfig(r=7, target_modules=targets)),
    "oft": Case(
        OFTConfig(block_size=8),
        lambda targets: peft.OFTConfig(oft_block_size=8, use_cayley_neumann=False, target_modules=targets),
        small={"block_size": 3},
    ),
    "oft-neumann": Case(
        OFTConfig(block_size=8, neumann_terms=5),
        lambda targets: peft.OFTConfig(oft_block_size=8, target_modules=targets),
        small={"block_size": 3},
    ),
    "ia3": Case(
        IA3Config(targets=LLAMA_LINEAR_LAYERS, feedforward_targets=("v_proj", "down_proj")),
        lambda targets: peft.IA3Config(
            target_modules=targets, feedforward_modules=[name for name in targets if name in ("v_proj", "down_proj")]
        ),
        small={"feedforward_targets": ("second",)},
    ),
    "bitfit": Case(BitFitConfig()),
    "layer-norm": Case(
        LayerNormTuningConfig(),
        lambda targets: peft.LNTuningConfig(target_modules=targets),
        small={"targets": ("norm",)},
    ),
    "serial": Case(SerialAdapterConfig(bottleneck=4)),
    "parallel": Case(ParallelAdapterConfig(bottleneck=4)),
    "prompt": Case(
        PromptTuningConfig(tokens=5), lambda _: peft.PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")
    ),
    "prefix": Case(
        PrefixTuningConfig(tokens=5), lambda _: peft.PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")
    ),
}
READS_IDS = {"prompt", "prefix"}  # adapters of a whole decoder
NOT_FOLDABLE = {"serial", "parallel", "prompt", "prefix"}
STARTS_ELSEWHERE = {"prompt", "prefix", "loftq"}
NEEDS_DENSE = {"loftq"}
NOT_IN_PEFT = {"loftq"}  # peft's start wants a GPU, see test_loftq_equals_pefts

# Trained numbers that Hugging Face's benchmark reports (method_comparison/MetaMathQA) or that peft counts.
QV = ("q_proj", "v_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
COUNTS: list[tuple[str, AdapterConfig, int]] = [
    ("Llama-3.2-3B", LoRAConfig(rank=32, targets=QV), 9_175_040),
    ("Llama-3.2-3B", LoRAConfig(rank=64, targets=QV), 18_350_080),
    ("Llama-3.2-3B", LoRAConfig(rank=16), 24_313_856),
    ("Llama-3.2-3B", LoRAConfig(rank=10, targets=MLP), 9_461_760),
    ("Llama-3.2-3B", DoRAConfig(rank=32, targets=QV), 9_289_728),
    ("Llama-3.2-3B", LoRAFAConfig(rank=32, targets=QV), 3_670_016),
    ("Llama-3.2-3B", VeRAConfig(rank=256, targets=QV), 129_024),
    ("Llama-3.2-3B", IA3Config(), 286_720),
    ("Llama-3.2-3B", AdaLoRAConfig(rank=64, target_rank=32, targets=QV), 18_353_664),
    ("Llama-3.2-3B", LoHaConfig(rank=32, targets=QV), 18_350_080),
    ("Llama-3.2-3B", LoKrConfig(rank=32, factor=4, targets=QV), 2_294_656),
    ("Llama-3.2-3B", MiSSConfig(rank=64, targets=QV), 7_340_032),
    ("Llama-3.2-3B", OFTConfig(block_size=32, targets=QV), 2_666_496),
    ("Llama-3.2-3B", OFTConfig(block_size=96, targets=QV), 8_171_520),
    ("Llama-3.2-3B", PromptTuningConfig(tokens=200), 614_400),
    ("Llama-3.2-3B", PrefixTuningConfig(tokens=50), 2_867_200),
    ("Llama-3.2-3B", PrefixTuningConfig(tokens=200), 11_468_800),
    ("Llama-3.2-3B", LayerNormTuningConfig(), 175_104),
    ("SmolLM2-135M", LoRAConfig(rank=8, targets=QV), 460_800),
    ("SmolLM2-135M", LoRAConfig(rank=16), 4_884_480),
    ("SmolLM2-135M", PiSSAConfig(rank=16), 4_884_480),
    ("SmolLM2-135M", OLoRAConfig(rank=16), 4_884_480),
    ("SmolLM2-135M", LoftQConfig(rank=16), 4_884_480),
    ("SmolLM2-135M", BiasedLoRAConfig(rank=16), 5_040_000),
    ("SmolLM2-135M", DoRAConfig(rank=16), 5_040_000),
    ("SmolLM2-135M", IA3Config(), 57_600),
    ("SmolLM2-135M", VeRAConfig(rank=256, targets=QV), 38_400),
    ("SmolLM2-135M", PromptTuningConfig(tokens=20), 11_520),
    ("SmolLM2-135M", PrefixTuningConfig(tokens=20), 230_400),
    ("SmolLM2-135M", SerialAdapterConfig(bottleneck=16), 2 * 30 * (2 * 576 * 16 + 16 + 576)),
    ("SmolLM2-135M", ParallelAdapterConfig(bottleneck=16), 30 * (2 * 576 * 16 + 16 + 576)),
    ("SmolLM2-135M", BitFitConfig(), 30 * (3 * 576 + 2 * 192 + 2 * 1536)),
]

# What a config refuses, and what it says.
REFUSED: list[tuple[type[AdapterConfig], dict[str, Any], type[Exception], str]] = [
    (LoRAConfig, {"rank": 0}, ValueError, "rank must be at least 1, got 0"),
    (LoRAConfig, {"rank": 2.0}, TypeError, "rank is a whole number, got 2.0"),
    (LoRAConfig, {"rank": True}, TypeError, "rank is a whole number, got True"),
    (LoRAConfig, {"alpha": math.inf}, ValueError, "alpha must be positive and finite, got inf"),
    (LoRAConfig, {"dropout": 1.0}, ValueError, r"dropout is a probability in \[0, 1\), got 1.0"),
    (DoRAConfig, {"rank": -1}, ValueError, "rank must be at least 1, got -1"),
    (LoftQConfig, {"iterations": 0}, ValueError, "iterations must be at least 1, got 0"),
    (LoftQConfig, {"block_size": 0}, ValueError, "block_size must be at least 1, got 0"),
    (AdaLoRAConfig, {"target_rank": 13}, ValueError, "target_rank 13 is above the first rank, 12"),
    (AdaLoRAConfig, {"total_steps": 10, "final_steps": 10}, ValueError, "leave none of 10 total_steps"),
    (AdaLoRAConfig, {"sensitivity_decay": 1.5}, ValueError, "sensitivity_decay is a probability"),
    (VeRAConfig, {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    (VeRAConfig, {"initial": 0.0}, ValueError, "initial must be positive and finite, got 0.0"),
    (LoHaConfig, {"alpha": 0}, ValueError, "alpha must be positive"),
    (LoKrConfig, {"factor": 0}, ValueError, "factor is -1 or at least 1, got 0"),
    (LoKrConfig, {"factor": -2}, ValueError, "factor must be at least -1, got -2"),
    (MiSSConfig, {"rank": 0}, ValueError, "rank must be at least 1, got 0"),
    (MiSSConfig, {"dropout": -0.5}, ValueError, "dropout is a probability"),
    (OFTConfig, {"block_size": 1}, ValueError, "block_size must be at least 2, got 1"),
    (OFTConfig, {"neumann_terms": 3}, ValueError, "neumann_terms must be at least 4, got 3"),
    (SerialAdapterConfig, {"bottleneck": 0}, ValueError, "bottleneck must be at least 1, got 0"),
    (ParallelAdapterConfig, {"scaling": -1.0}, ValueError, "scaling must be positive"),
    (PromptTuningConfig, {"tokens": 0}, ValueError, "tokens must be at least 1, got 0"),
    (PrefixTuningConfig, {"tokens": 1.5}, TypeError, "tokens is a whole number, got 1.5"),
    (BitFitConfig, {"targets": "q_proj"}, TypeError, r"targets is a tuple of names, such as \('q_proj',\)"),
    (IA3Config, {"targets": (), "feedforward_targets": ()}, ValueError, "targets is empty"),
    (LayerNormTuningConfig, {"targets": ()}, ValueError, "targets is empty"),
]
