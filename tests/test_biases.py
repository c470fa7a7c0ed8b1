"""The base's own biases, trained beside the adapters, against Hugging Face peft."""

import copy
import json
import re
from functools import partial

import peft
import pytest
import torch
import transformers
from parity import Biased, perturb_either
from torch import nn

from peft_lessons import (
    LoRAConfig,
    adapters_disabled,
    add_adapter,
    concatenate,
    inject,
    load_adapter,
    lora_plus_groups,
    merge,
    save_adapter,
    trainable_parameters,
    using,
)
from peft_lessons.accounting import model_shape, trained_parameters
from peft_lessons.adapters import named_adapters
from peft_lessons.checkpoints.files import read_adapter, read_config
from peft_lessons.checkpoints.weights import tensor_places


def biased() -> nn.Module:
    torch.manual_seed(0)
    return Biased().eval()


def unbiased() -> nn.Module:
    model = biased()
    for layer in model.children():
        layer.bias = None
    return model


class Convolved(nn.Module):
    """Biases of a convolution, of the norm behind it and of a layer that reads its weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4)
        self.mha, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.conv(x[:, None])).mT
        return self.head(self.mha(h, h, h)[0])


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


FLOATS, IDS = torch.randn(3, 24, generator=torch.Generator().manual_seed(0)), torch.arange(14).view(2, 7)
BIASES = {
    "linear": (biased, ["q_proj"], {}, FLOATS),
    "no biases": (unbiased, ["q_proj"], {}, FLOATS),
    "dora": (biased, ["q_proj", "v_proj"], {"use_dora": True}, FLOATS),
    "own bias": (biased, ["q_proj"], {"lora_bias": True}, FLOATS),
    "parameter": (biased, [], {"target_parameters": ["q_proj.weight"]}, FLOATS),
    "whole head": (lambda: Convolved().eval(), ["conv"], {"modules_to_save": ["head"]}, FLOATS),
    "gpt2": (gpt2, ["c_attn", "c_fc"], {}, IDS),
}


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = model(x)
    return y if isinstance(y, torch.Tensor) else y.logits


@pytest.mark.parametrize("setting", ["lora_only", "all"])
@pytest.mark.parametrize("name", BIASES)
def test_biases_of_the_base_that_trained(name: str, setting: str, tmp_path) -> None:
    """Those of the adapted layers, or all: as in peft, but that the base's own are not written to."""
    base, targets, more, x = BIASES[name]
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=targets, bias=setting, **more)
    theirs = peft.get_peft_model(base(), config).eval()
    perturb_either(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    mine = load_adapter(base(), tmp_path / "theirs").eval()
    expected = logits(theirs, x)
    close = partial(torch.testing.assert_close, rtol=0, atol=2e-6 * expected.abs().max().item())
    close(logits(mine, x), expected)
    with adapters_disabled(mine):
        assert torch.equal(logits(mine, x), logits(base(), x)), "the base's bias was written to"
    assert torch.equal(logits(copy.deepcopy(mine), x), logits(mine, x))

    for model in (mine, theirs):
        logits(model, x).square().mean().backward()
    gradients = {
        re.sub(r"modules_to_save\.default\.|(?<=vector)\.default\.weight|\.default", "", key): p.grad
        for key, p in theirs.named_parameters()
        if p.requires_grad and p.grad is not None
    }
    for place in tensor_places(list(named_adapters(mine)), read_adapter(tmp_path / "theirs").layout):
        gradient = gradients.pop(place.name)
        torch.testing.assert_close(place.tensor.grad, gradient, rtol=0, atol=1e-5 * gradient.abs().max().item() + 1e-9)
    assert not gradients, "what else trains in peft"

    save_adapter(mine, read_config(tmp_path / "theirs"), tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(base(), tmp_path / "ours").eval()
    close(logits(again, x), expected)
    again = load_adapter(base(), tmp_path / "ours").eval()
    assert torch.equal(logits(again, x), logits(mine, x))
    merge(mine)
    assert not list(named_adapters(mine))
    close(logits(mine, x), expected)
    assert [key for key, _ in mine.named_parameters()] == [key for key, _ in base().named_parameters()]


def test_biases_start_as_they_are_and_stay_fp32() -> None:
    x = FLOATS.bfloat16()
    model = inject(biased().bfloat16(), LoRAConfig(rank=2, targets=("q_proj",), bias="all"))
    assert torch.equal(model(x), biased().bfloat16()(x))
    assert {name for name, _ in named_adapters(model)} == {"q_proj", "norm", "v_proj"}
    assert {p.dtype for p in trainable_parameters(model)} == {torch.float32}
    model(x).float().square().mean().backward()
    assert all(p.grad is not None for p in trainable_parameters(model))
    assert {group["lr"] for group in lora_plus_groups(model, 1e-4)} == {1e-4, 16e-4}


def test_biases_of_several_adapters() -> None:
    model = biased()
    expected = model(FLOATS)
    for name in ("one", "two"):
        add_adapter(model, name, LoRAConfig(rank=2, targets=("q_proj",), bias="all"))
    with torch.no_grad():
        model.norm.get("one").trained_bias += 1
    for name in (None, "two"):
        with using(model, name):
            assert torch.equal(model(FLOATS), expected)
    with using(model, "one"):
        assert not torch.equal(model(FLOATS), expected)
    with using(model, ["one", "two", None]):
        mixed = model(FLOATS)
    assert not torch.equal(mixed[0], expected[0])
    torch.testing.assert_close(mixed[1:], expected[1:])
    with pytest.raises(TypeError, match="'one' has a TrainedBias at q_proj"):
        concatenate(model, {"one": 1.0, "two": 1.0})


def test_biases_have_three_words(tmp_path) -> None:
    with pytest.raises(ValueError, match="bias is 'some'; possible: none, all, lora_only"):
        LoRAConfig(bias="some")
    config = LoRAConfig(rank=2, targets=("q_proj",))
    save_adapter(inject(biased(), config), config, tmp_path)
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if key != "bias"}))
    assert read_config(tmp_path).bias == "none"
    assert trained_parameters(model_shape("GPT-2 small"), LoRAConfig(rank=2, targets=("c_attn",))) == 73728
    with pytest.raises(TypeError, match="anything that trains beside them"):
        trained_parameters(model_shape("GPT-2 small"), LoRAConfig(rank=2, targets=("c_attn",), bias="all"))
