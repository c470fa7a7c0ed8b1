"""SmolLM2 with our adapters, and transformers' SmolLM2 with the same adapters in peft: the same logits."""

import copy

import pytest
import torch
from contract import perturb
from peft import PeftModel
from references import smollm2_config
from transformers import LlamaForCausalLM

from peft_lessons import (
    AdaLoRAConfig,
    AdapterConfig,
    DoRAConfig,
    IA3Config,
    LayerNormTuningConfig,
    LoHaConfig,
    LoRAConfig,
    OFTConfig,
    PiSSAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeRAConfig,
    adapters_disabled,
    inject,
    remove_adapters,
    save_adapter,
)
from peft_lessons.adapters import named_adapters
from peft_lessons.models import Decoder, load_smollm2

pytestmark = pytest.mark.slow

CONFIGS: list[AdapterConfig] = [
    LoRAConfig(rank=8, alpha=5, rank_stabilized=True),
    PiSSAConfig(rank=4, alpha=12, targets=("k_proj",)),  # an SVD for every other matrix takes minutes
    DoRAConfig(rank=4, alpha=12),
    AdaLoRAConfig(rank=4, target_rank=2, alpha=12),
    VeRAConfig(rank=64),
    LoHaConfig(rank=2, alpha=3, targets=("q_proj", "down_proj")),
    OFTConfig(block_size=32, neumann_terms=5),
    IA3Config(),
    LayerNormTuningConfig(),
    PromptTuningConfig(tokens=8),
    PrefixTuningConfig(tokens=8),
]

PRODUCTS = (AdaLoRAConfig, VeRAConfig, LoHaConfig)  # of more factors, so that small moves do next to nothing


@pytest.fixture(scope="module")
def models() -> tuple[Decoder, LlamaForCausalLM]:
    model, _ = load_smollm2()
    reference = LlamaForCausalLM(smollm2_config())
    reference.load_state_dict(model.state_dict())
    return model, reference.eval()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_same_logits(models: tuple[Decoder, LlamaForCausalLM], config: AdapterConfig, tmp_path) -> None:
    model, reference = models
    ids = torch.randint(49152, (2, 12), generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            base = model(ids)
            inject(model, config)
            for _, layer in named_adapters(model):
                move(layer, 1 if isinstance(config, PRODUCTS) else 1 / 30)
            save_adapter(model, config, tmp_path)
            adapted = model.eval()(ids)
            with adapters_disabled(model):
                assert torch.equal(model(ids), base)
            # a copy, since peft leaves traces in a model that it has adapted
            expected = PeftModel.from_pretrained(copy.deepcopy(reference), tmp_path).eval()(ids).logits[:, -12:]
    finally:
        remove_adapters(model)
    scale = base.abs().max()
    assert (adapted - base).abs().max() > 0.01 * scale, "the adapter does nothing"
    assert (adapted - expected).abs().max() < 2e-5 * scale


def move(layer: torch.nn.Module, share: float) -> None:
    """Move an adapter away from its start by a share of what the contract does: thirty layers add up."""
    before = {name: p.clone() for name, p in layer.named_parameters() if p.requires_grad}
    perturb(layer)
    for name, p in layer.named_parameters():
        if name in before:
            p.copy_(before[name] + share * (p - before[name]))
