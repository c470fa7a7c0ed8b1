"""The same weights in Hugging Face peft and here: outputs, gradients, merges, files. peft is the oracle."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from peft_lessons import LoRAConfig, inject, load_adapter, merge, save_adapter, trainable_parameters
from peft_lessons.adapters import named_adapters

TARGETS = ("q_proj", "v_proj")
# rank, alpha, rank-stabilised: alpha differs from rank in each, and the scaling is not 1
SETTINGS = [(4, 12.0, False), (4, 3.0, True), (1, 16.0, False), (16, 5.0, False)]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(24, 40, bias=True)
        self.v_proj = nn.Linear(40, 17, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v_proj(torch.tanh(self.q_proj(x)))


def pair(rank: int, alpha: float, rank_stabilized: bool, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """(ours, peft's) with equal weights, B ≠ 0."""
    torch.manual_seed(0)
    base = Model().to(dtype)
    theirs = get_peft_model(
        copy.deepcopy(base),
        LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=list(TARGETS), use_rslora=rank_stabilized, init_lora_weights=False
        ),
    )
    ours = inject(base, LoRAConfig(rank=rank, alpha=alpha, rank_stabilized=rank_stabilized, targets=TARGETS))
    with torch.no_grad():
        for name, layer in named_adapters(ours):
            twin = theirs.base_model.model.get_submodule(name)
            layer.lora_A.copy_(twin.lora_A["default"].weight)
            layer.lora_B.copy_(twin.lora_B["default"].weight)
    return ours, theirs


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_outputs_and_gradients(setting: tuple, dtype: torch.dtype, bound: float) -> None:
    ours, theirs = pair(*setting, dtype)
    x = torch.randn(6, 24).to(dtype)
    results = []
    for model in (ours, theirs):
        inputs = x.clone().requires_grad_()
        y = model(inputs)
        y.float().square().sum().backward()
        gradients = [p.grad.float() for p in trainable_parameters(model)]
        results.append([y.float(), inputs.grad.float(), *gradients])
    assert len(results[0]) == len(results[1]) == 6
    for mine, reference in zip(*results, strict=True):
        # relative to the largest entry: a bf16 sum of many terms has no small relative error in each entry
        torch.testing.assert_close(mine, reference, rtol=bound, atol=bound * reference.abs().max().item())
    assert not torch.allclose(results[1][0], theirs.get_base_model()(x).float() * 0, atol=0.1)


@pytest.mark.parametrize("setting", SETTINGS)
def test_same_scaling(setting: tuple) -> None:
    ours, theirs = pair(*setting, torch.float32)
    for name, layer in named_adapters(ours):
        assert layer.scaling == pytest.approx(theirs.base_model.model.get_submodule(name).scaling["default"], rel=1e-12)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge(setting: tuple, dtype: torch.dtype) -> None:
    ours, theirs = pair(*setting, dtype)
    mine = merge(ours).state_dict()
    reference = theirs.merge_and_unload().state_dict()
    assert mine.keys() == reference.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == reference[name].dtype == dtype
        step = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-22  # one last place: sums in another order may round apart
        torch.testing.assert_close(tensor, reference[name], rtol=step, atol=1e-6)


@pytest.mark.parametrize("setting", SETTINGS)
def test_our_files_load_in_peft(setting: tuple, tmp_path) -> None:
    ours, _ = pair(*setting, torch.float32)
    rank, alpha, rank_stabilized = setting
    config = LoRAConfig(rank=rank, alpha=alpha, rank_stabilized=rank_stabilized, targets=TARGETS)
    save_adapter(ours, config, tmp_path)
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(Model(), tmp_path)
    x = torch.randn(3, 24)
    torch.testing.assert_close(loaded(x), ours(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("setting", SETTINGS)
def test_their_files_load_here(setting: tuple, tmp_path) -> None:
    _, theirs = pair(*setting, torch.float32)
    theirs.save_pretrained(tmp_path)
    torch.manual_seed(0)
    loaded = load_adapter(Model(), tmp_path)
    x = torch.randn(3, 24)
    torch.testing.assert_close(loaded(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_their_files_that_compute_something_else_are_refused(tmp_path) -> None:
    """PiSSA starts from W minus its principal part: its A and B fit no other base."""
    config = LoraConfig(r=4, target_modules=list(TARGETS), init_lora_weights="pissa")
    get_peft_model(Model(), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not supported here: init_lora_weights='pissa'"):
        load_adapter(Model(), tmp_path)
