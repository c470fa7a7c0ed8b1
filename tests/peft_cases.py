"""The settings that Hugging Face peft tries its methods with, as facts: method, model and settings.

From `tests/test_custom_models.py` of huggingface/peft at 5d602fd (August 2026), for LoKr and MiSS at 0000e79: its cases
for the methods that exist here under the same name. The models are written anew with its names and sizes of layers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import peft
import torch
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class Case(NamedTuple):
    config: type
    model: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        shown = "-".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.config.__name__}-{self.model}-{shown}"


class Chain(nn.Module):
    """Named modules one after the other, and what reshapes the numbers in front of each."""

    def __init__(self, before: dict[str, Callable[[Tensor], Tensor]] | None = None, **modules: nn.Module) -> None:
        super().__init__()
        self.before = before or {}
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for name, module in self.named_children():
            x = module(self.before.get(name, torch.Tensor.contiguous)(x))
        return x


class OwnLinear(nn.Module):
    """A linear layer of somebody who knows no nn.Linear; its weight is (in, out)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.randn(in_features, out_features))
        self.bias = nn.Parameter(torch.ones(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha, self.lin0 = nn.MultiheadAttention(10, 2), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin0(self.mha(x, x, x)[0])


def images(*shape: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.reshape(-1, *shape)


def convolution(conv: nn.Module, name: str, *shape: int, features: int, repeated: int = 1) -> nn.Module:
    """`conv` over inputs of `shape`, and a linear layer over all that it gives."""

    def read(x: Tensor) -> Tensor:
        return torch.cat([x] * repeated, dim=1).reshape(-1, *shape)

    before = {name: read, "lin0": lambda x: x.flatten(1)}
    return Chain(before, **{name: conv}, relu=nn.ReLU(), lin0=nn.Linear(features, 2))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: Chain(lin0=nn.Linear(10, 20), relu=nn.ReLU(), drop=nn.Dropout(0.5), lin1=nn.Linear(20, 2)),
    "MLP_LayerNorm": lambda: Chain(
        layernorm0=nn.LayerNorm(10, 10),
        lin0=nn.Linear(10, 20),
        relu=nn.ReLU(),
        layernorm1=nn.LayerNorm(20, 20),
        lin1=nn.Linear(20, 2),
    ),
    "MlpUsingParameters": lambda: Chain(lin0=OwnLinear(10, 20), relu=nn.ReLU(), lin1=OwnLinear(20, 2)),
    "MHA": Attention,
    "EmbConv1D": lambda: Chain(
        {"lin0": lambda x: x.flatten(1)},
        emb=nn.Embedding(100, 5),
        conv1d=Conv1D(1, 5),
        relu=nn.ReLU(),
        lin0=nn.Linear(10, 2),
    ),
    "Conv1d": lambda: convolution(nn.Conv1d(1, 1, 2), "conv1d", 1, 10, features=9),
    "Conv1dBigger": lambda: convolution(nn.Conv1d(64, 16, 2), "conv1d", 64, 10, features=144, repeated=64),
    "Conv1dGroups": lambda: convolution(nn.Conv1d(8, 8, 3, groups=2), "conv1d", 8, 10, features=64, repeated=8),
    "Conv2d": lambda: convolution(nn.Conv2d(5, 10, 3), "conv2d", 5, 3, 3, features=10),
    "Conv2d1x1": lambda: convolution(nn.Conv2d(1, 10, 1), "conv2d", 1, 3, 3, features=90),
    "Conv2dGroups": lambda: convolution(nn.Conv2d(16, 16, 3, groups=8), "conv2d", 16, 3, 3, features=16, repeated=8),
    "Conv2dGroups2": lambda: convolution(
        nn.Conv2d(16, 32, 3, padding=1, groups=2), "conv2d", 16, 3, 3, features=288, repeated=8
    ),
    "Conv3d": lambda: convolution(nn.Conv3d(5, 10, 3), "conv3d", 5, 3, 3, 3, features=10, repeated=3),
}


def inputs(model: str) -> Tensor:
    """Nine samples of ten numbers, ids or pieces of an image."""
    x = torch.arange(90).view(9, 10)
    return x if model == "EmbConv1D" else x / 50 - 0.9


BOTH, LIN0, LIN1 = ["lin0", "lin1"], ["lin0"], ["lin1"]
WHERE: list[dict[str, Any]] = [{"target_modules": targets} for targets in ("lin0", LIN0, LIN1, BOTH)]
HEAD: dict[str, Any] = {"target_modules": LIN0, "modules_to_save": ["lin1"]}


def convolutions(name: str, *variants: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    return [{"target_modules": t, **settings, **more} for more in variants or ({},) for t in ([name], [name, "lin0"])]


BLOCKS: list[dict[str, Any]] = [
    {"target_modules_bd_a": LIN0, "match_strict": False},
    {"target_modules_bd_b": LIN1, "nblocks": 2, "match_strict": False},
    {"target_modules_bd_a": LIN0, "target_modules_bd_b": LIN1, "nblocks": 2},
]


def settings() -> dict[tuple[type, str], list[dict[str, Any]]]:
    lora, dora = peft.LoraConfig, {"use_dora": True}
    emb, conv1d, both = ["emb"], ["conv1d"], ["emb", "conv1d"]
    oft_r = {"r": 2, "oft_block_size": 0, "target_modules": LIN0}
    oft_b = {"r": 0, "oft_block_size": 2, "target_modules": LIN0}
    exact, constrained, shared = {"use_cayley_neumann": False}, {"coft": True, "eps": 0.01}, {"block_share": True}
    return {
        (lora, "MLP"): [
            *WHERE,
            HEAD,
            {"target_modules": LIN0, "lora_alpha": 4, "lora_dropout": 0.1},
            {"target_modules": LIN0, **dora},
            {"target_modules": BOTH, **dora},
            {"target_modules": "lin1", **dora, "lora_alpha": 32},
            {"target_modules": LIN0, "kasa_config": KasaConfig(), "r": 4},
            {"target_modules": LIN0, "init_lora_weights": "mica", "r": 4},
            {"target_modules": LIN0, "velora_config": VeloraConfig(num_groups=2, init_type="random")},
            {"target_modules": BOTH, "velora_config": VeloraConfig(num_groups=2, init_type="batch_average")},
            {"target_modules": LIN0, "velora_config": VeloraConfig(num_groups=2, init_type="batch_average_once")},
            {"target_modules": BOTH, "lora_bias": True, "lora_alpha": 32},
            {"target_modules": LIN0, "target_parameters": ["lin1.weight"]},
            {"target_modules": LIN0, "monteclora_config": MontecloraConfig(num_samples=2)},
            *({"target_modules": BOTH, "use_bdlora": BdLoraConfig(**blocks)} for blocks in BLOCKS),
        ],
        (lora, "MlpUsingParameters"): [{"target_parameters": ["lin0.weight"]}],
        (lora, "MHA"): [{"target_modules": ["mha"]}, {"target_modules": ["mha", "lin0"]}],
        (lora, "EmbConv1D"): [
            *({"target_modules": t, **more} for more in ({}, dora) for t in (conv1d, emb, both)),
            {"target_modules": conv1d, "trainable_token_indices": {"emb": [0, 10]}},
        ],
        (lora, "Conv1d"): [{"target_modules": conv1d}, {"target_modules": conv1d, **dora}],
        (lora, "Conv2d"): [
            *convolutions("conv2d", {}, dora),
            {"target_modules": ["conv2d"], "lora_bias": True, "lora_alpha": 32},
        ],
        (lora, "Conv2dGroups"): [{"target_modules": ["conv2d"], **more} for more in ({}, dora)],
        (lora, "Conv2dGroups2"): [{"target_modules": ["conv2d"], **more} for more in ({}, dora)],
        (lora, "Conv3d"): [
            *convolutions("conv3d", {}, dora),
            {"target_modules": ["conv3d"], "lora_bias": True, "lora_alpha": 32},
        ],
        (peft.IA3Config, "MLP"): [
            {"target_modules": "lin0", "feedforward_modules": []},
            {"target_modules": "lin0", "feedforward_modules": "lin0"},
            *({"target_modules": t, "feedforward_modules": f} for t in (LIN0, LIN1, BOTH) for f in ([], t)),
            {**HEAD, "feedforward_modules": LIN0},
        ],
        (peft.IA3Config, "EmbConv1D"): [
            {"target_modules": conv1d, "feedforward_modules": conv1d},
            {"target_modules": ["conv1d", "lin0"], "feedforward_modules": ["conv1d", "lin0"]},
            {"target_modules": conv1d, "feedforward_modules": conv1d, "modules_to_save": LIN0},
        ],
        **{
            (peft.IA3Config, model): [
                *({"target_modules": [name], "feedforward_modules": f} for f in ([], [name])),
                *({"target_modules": [name, "lin0"], "feedforward_modules": f} for f in ([], [name], [name, "lin0"])),
            ]
            for model, name in (("Conv2d", "conv2d"), ("Conv3d", "conv3d"))
        },
        (peft.LoHaConfig, "MLP"): [
            *WHERE,
            HEAD,
            {"target_modules": LIN0, "alpha": 4, "module_dropout": 0.1},
            {"target_modules": "lin0", "rank_dropout": 0.5},
        ],
        (peft.LoHaConfig, "Conv2d"): convolutions("conv2d", {}, {"use_effective_conv2d": True}),
        (peft.LoHaConfig, "Conv1d"): [{"target_modules": conv1d}] * 2 + [{"target_modules": conv1d, "r": 2}],
        (peft.LoHaConfig, "Conv1dGroups"): [{"target_modules": conv1d, "r": 4}],
        (peft.LoHaConfig, "Conv1dBigger"): [
            {"target_modules": conv1d, "r": 2, "use_effective_conv2d": effective} for effective in (True, False)
        ],
        (peft.LoHaConfig, "Conv2d1x1"): [{"target_modules": ["conv2d"]}],
        (peft.LoHaConfig, "Conv2dGroups"): [{"target_modules": ["conv2d"]}],
        (peft.LoHaConfig, "Conv2dGroups2"): [{"target_modules": ["conv2d"]}],
        (peft.LoKrConfig, "MLP"): [
            *WHERE,
            HEAD,
            {"target_modules": LIN0, "alpha": 4, "module_dropout": 0.1},
            {"target_modules": "lin0", "rank_dropout": 0.5},
            {"target_modules": "lin0", "decompose_both": True, "r": 1, "alpha": 1},
        ],
        (peft.LoKrConfig, "Conv2d"): convolutions("conv2d", {}, {"use_effective_conv2d": True}),
        (peft.MissConfig, "MLP"): [
            {**where, "r": 2, **variant}
            for variant in ({}, {"init_weights": "bat"})
            for where in (*({"target_modules": targets} for targets in ("lin0", LIN0, BOTH)), HEAD)
        ],
        (peft.OFTConfig, "MLP"): [
            {**oft_r, "target_modules": "lin0", **exact},
            {**oft_r, **exact},
            {**oft_r, "modules_to_save": LIN1, **exact},
            {**oft_r, "module_dropout": 0.1, **exact},
            {**oft_r, **constrained},
            {**oft_r, **shared, **exact},
            {**oft_r, **constrained, **shared},
            *({**oft_b, "use_cayley_neumann": series} for series in (True, False)),
            *({**oft_b, **constrained, **shared, "use_cayley_neumann": series} for series in (True, False)),
        ],
        (peft.OFTConfig, "EmbConv1D"): [
            {"r": 1, "oft_block_size": 0, "target_modules": emb, **more} for more in ({}, shared)
        ],
        (peft.OFTConfig, "Conv2d"): [
            {"r": 5, "oft_block_size": 0, "target_modules": ["conv2d"], **more}
            for more in ({}, {"coft": True}, shared, {"coft": True, **shared})
        ],
        (peft.LNTuningConfig, "MLP_LayerNorm"): [
            {"target_modules": "layernorm0"},
            {"target_modules": ["layernorm0"]},
            {"target_modules": ["layernorm0"], "modules_to_save": ["layernorm1"]},
            {"target_modules": "lin0"},
            {"target_modules": LIN0},
        ],
        (peft.VeraConfig, "MLP"): [*WHERE, HEAD],
        (peft.VeraConfig, "EmbConv1D"): [{"target_modules": conv1d}],
        (peft.AdaLoraConfig, "MLP"): [
            {"target_modules": LIN0, "total_step": 1, "orth_reg_weight": 0},
            {"target_modules": BOTH, "total_step": 1},
        ],
        (peft.AdaLoraConfig, "Conv2d"): convolutions("conv2d", total_step=1),
    }


CASES = [Case(config, model, one) for (config, model), every in settings().items() for one in every]
START = {  # the setting by which each method starts with random numbers, not with what changes nothing
    peft.LoraConfig: "init_lora_weights",
    peft.AdaLoraConfig: "init_lora_weights",
    peft.IA3Config: "init_ia3_weights",
    peft.LoHaConfig: "init_weights",
    peft.LoKrConfig: "init_weights",
    peft.MissConfig: "init_weights",
    peft.OFTConfig: "init_weights",
    peft.VeraConfig: "init_weights",
}
