"""Adapters over 4-bit weights: ours, and peft's over bitsandbytes' Linear4bit, in the mode in which one trains."""

import copy

import bitsandbytes as bnb
import peft
import pytest
import torch
from parity import named_gradients, perturb_either, theirs
from torch import nn

from peft_lessons import FP4, NF4, QuantizedLinear, load_adapter
from peft_lessons.adapters import named_adapters
from peft_lessons.checkpoints.peft_names import layout_of

METHODS = ["lora", "rslora", "dora", "adalora", "vera", "oft-neumann", "ia3"]
SIZES = {"q_proj": (64, 128), "v_proj": (128, 192)}
CODEBOOKS = {"nf4": NF4, "fp4": FP4}


class Network(nn.Module):
    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.q_proj, self.v_proj = layers["q_proj"], layers["v_proj"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v_proj(torch.tanh(self.q_proj(x)))


def networks(quant_type: str) -> tuple[Network, Network]:
    """The same random network, quantized here and by bitsandbytes."""
    torch.manual_seed(0)
    dense = {name: nn.Linear(*size, bias=name == "q_proj") for name, size in SIZES.items()}
    ours = {name: QuantizedLinear.from_linear(layer, codebook=CODEBOOKS[quant_type]) for name, layer in dense.items()}
    reference: dict[str, nn.Module] = {}
    for name, layer in dense.items():
        quantized = bnb.nn.Linear4bit(
            layer.in_features, layer.out_features, layer.bias is not None,
            compute_dtype=torch.float32, compress_statistics=False, quant_type=quant_type,
        )  # fmt: skip
        quantized.load_state_dict(copy.deepcopy(layer.state_dict()))
        reference[name] = quantized.to("cpu")
    return Network(ours), Network(reference)


@pytest.mark.parametrize("quant_type", CODEBOOKS)
@pytest.mark.parametrize("method", METHODS)
def test_outputs_and_gradients(method: str, quant_type: str, tmp_path) -> None:
    mine, base = networks(quant_type)
    reference = peft.get_peft_model(base, theirs(method, tuple(SIZES))).train()
    perturb_either(reference)
    reference.save_pretrained(tmp_path)
    load_adapter(mine, tmp_path).train()
    x = torch.randn(300, 64)
    results = []
    for model in (mine, reference):
        inputs = x.clone().requires_grad_()
        y = model(inputs)
        y.square().mean().backward()
        results.append((y, inputs.grad))
    for actual, expected in zip(*results, strict=True):
        close(actual, expected)
    expected_gradients = named_gradients(reference)
    checked = 0
    for module, layer in named_adapters(mine):
        layout = layout_of(layer.config)
        for name, parameter in layer.named_parameters():
            if parameter.requires_grad:
                close(layout.encode(layer, parameter.grad), expected_gradients[layout.name(module, name)])
                checked += 1
    assert checked == len(expected_gradients)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
