"""Pairs of the same method here and in Hugging Face peft, with the same weights."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
from method_cases import CASES as CASES_OF_METHODS
from method_cases import READS_IDS
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from peft_lessons import (
    AdapterConfig,
    IA3Config,
    adapter_state_dict,
    inject,
    load_adapter,
    remove_adapters,
)
from peft_lessons.adapters import load_adapter_state_dict
from peft_lessons.models import Decoder, DecoderConfig

DECODER = DecoderConfig(
    vocab_size=61,
    hidden_size=48,
    intermediate_size=72,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.2,
)

OURS: dict[str, AdapterConfig] = {name: case.config for name, case in CASES_OF_METHODS.items() if case.peft}
# Peft merges no bias into a layer without one.
NOT_MERGED = {("lora-bias", "decoder"), *((method, "decoder") for method in READS_IDS)}


def theirs(method: str, targets: tuple[str, ...]) -> Any:
    """Peft's config, a new one at each call, since peft changes it."""
    make = CASES_OF_METHODS[method].peft
    assert make is not None, f"peft does nothing like {method}"
    return make(list(targets))


class Biased(nn.Module):
    """What the decoder has not: a bias, a LayerNorm, and no embedding in front."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(24, 40, bias=True)
        self.norm = nn.LayerNorm(40)
        self.v_proj = nn.Linear(40, 16, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v_proj(torch.tanh(self.norm(self.q_proj(x))))


def decoders(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """The same small language model here and in transformers; the same at each call."""
    torch.manual_seed(0)
    ours = Decoder(DECODER)
    settings = {name: getattr(DECODER, name) for name in vars(DECODER) if name != "initializer_range"}
    theirs = LlamaForCausalLM(LlamaConfig(**settings, attn_implementation="eager"))
    theirs.load_state_dict(ours.state_dict())
    return ours.to(dtype).eval(), theirs.to(dtype).eval()


def biased(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = Biased().to(dtype).eval()
    return model, copy.deepcopy(model)


MODELS = {"decoder": decoders, "biased": biased}
CASES = [(method, model) for method in OURS for model in MODELS if model == "decoder" or method not in READS_IDS]


def targets(method: str, model: str) -> tuple[str, ...]:
    if model == "decoder":
        return OURS[method].targets
    return ("norm",) if method == "layer-norm" else ("q_proj", "v_proj")


def ours(method: str, model: str) -> AdapterConfig:
    config = replace(OURS[method], targets=OURS[method].targets)
    if model == "decoder":
        return config
    if isinstance(config, IA3Config):
        return replace(config, targets=targets(method, model), feedforward_targets=("v_proj",))
    return replace(config, targets=targets(method, model))


def start(method: str, model: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, peft.PeftModel]:
    """(ours, peft's) with new adapters. Their random numbers differ."""
    mine, base = MODELS[model](dtype)
    inject(mine, ours(method, model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = peft.get_peft_model(base, theirs(method, targets(method, model)), autocast_adapter_dtype=False)
    return mine, reference.eval()


def pair(method: str, model: str, folder: Path, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, peft.PeftModel]:
    """(ours, peft's) with equal weights, away from their start. Peft makes and saves them, we load its files."""
    _, reference = start(method, model, dtype)
    perturb_either(reference)
    reference.save_pretrained(folder)
    mine = load_adapter(MODELS[model](dtype)[0], folder)
    if method == "lora-fa":  # on disk it is LoRA
        state = adapter_state_dict(mine)
        mine = inject(remove_adapters(mine), ours(method, model))
        load_adapter_state_dict(mine, state)
    return mine.eval(), reference


def perturb_either(model: nn.Module) -> None:
    """Move what trains, but for AdaLoRA's count of ranks, which peft lets train in float64 by accident."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "ranknum" not in name:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def inputs(model: str, dtype: torch.dtype = torch.float32, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if model == "decoder":
        return torch.randint(DECODER.vocab_size, (3, 7), generator=generator)
    return torch.randn(3, 7, 24, generator=generator).to(dtype)


def outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """At the places of `x`: peft also gives those of a prompt, which come first."""
    output = model(x)
    return (output if isinstance(output, torch.Tensor) else output.logits)[:, -x.shape[1] :]


def named_gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Peft's gradients, by the names that its files use."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "ranknum" not in name:
            name = name.replace("prompt_encoder.default.embedding.weight", "prompt_embeddings")
            name = name.replace("lora_magnitude_vector.default.weight", "lora_magnitude_vector")
            found[name.replace(".default", "")] = parameter.grad
    return found
