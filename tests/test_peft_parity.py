"""The same weights in Hugging Face peft and here: starts, outputs, gradients, merges, files. peft is the oracle."""

import copy
from dataclasses import replace

import peft
import pytest
import torch
from method_cases import READS_IDS
from parity import (
    CASES,
    DECODER,
    MODELS,
    NOT_MERGED,
    Biased,
    inputs,
    named_gradients,
    ours,
    outputs,
    pair,
    start,
)
from torch import nn

from peft_lessons import adapter_state_dict, load_adapter, merge, save_adapter, trainable_parameters
from peft_lessons.adapters import named_adapters
from peft_lessons.checkpoints.peft_names import layout_of
from peft_lessons.models import Decoder

pytestmark = pytest.mark.parametrize(("method", "model"), CASES)

DTYPES = [torch.float64, torch.float32]
# Relative to the largest entry. transformers computes norms and softmax in fp32 also in fp64.
MISFIT = r"do not fit this model: (missing|unexpected|\S+ is \()|block_size 8 does not divide"
BOUNDS = {torch.float64: 2e-6, torch.float32: 5e-6}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, bound: float) -> None:
    torch.testing.assert_close(actual.float(), expected.float(), rtol=0, atol=bound * expected.abs().max().item())


def bound(method: str, dtype: torch.dtype) -> float:
    """R of OLoRA holds entries as large as whole columns of W: both sides then are 1e-5 off the same in float64."""
    return BOUNDS[dtype] * (4 if method == "olora" else 1)


def pissa_in_fp64(method: str, dtype: torch.dtype) -> None:
    if method in ("pissa", "olora") and dtype == torch.float64:
        pytest.skip("peft refuses PiSSA in float64")


def test_the_same_parameters_train(method: str, model: str) -> None:
    mine, reference = start(method, model)
    count = sum(p.numel() for n, p in reference.named_parameters() if p.requires_grad and "ranknum" not in n)
    if method == "lora-fa":  # an optimizer in peft, which has A's parameters too and leaves them as they are
        count -= sum(p.numel() for n, p in reference.named_parameters() if ".lora_A." in n)
    assert sum(p.numel() for p in trainable_parameters(mine)) == count


def test_both_start_as_the_base(method: str, model: str) -> None:
    if method in READS_IDS:
        pytest.skip("a prompt is read from the first step on")
    mine, reference = start(method, model)
    x = inputs(model)
    base = outputs(MODELS[model]()[0], x)
    assert torch.equal(outputs(mine, x), base)
    assert_close(outputs(reference, x), base, 5e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_their_files_load_here(method: str, model: str, dtype: torch.dtype, tmp_path) -> None:
    pissa_in_fp64(method, dtype)
    mine, reference = pair(method, model, tmp_path, dtype)
    x = inputs(model, dtype)
    expected = outputs(reference, x)
    assert (expected.float() - outputs(MODELS[model](dtype)[0], x).float()).abs().max() > 0.05  # it does something
    assert_close(outputs(mine, x), expected, bound(method, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_our_files_load_in_peft(method: str, model: str, dtype: torch.dtype, tmp_path) -> None:
    pissa_in_fp64(method, dtype)
    mine, _ = pair(method, model, tmp_path / "theirs", dtype)
    save_adapter(mine, next(named_adapters(mine))[1].config, tmp_path / "ours")
    loaded = peft.PeftModel.from_pretrained(MODELS[model](dtype)[1], tmp_path / "ours", autocast_adapter_dtype=False)
    x = inputs(model, dtype)
    assert_close(outputs(loaded.eval(), x), outputs(mine, x), bound(method, dtype))


def test_in_bf16_we_are_as_near_to_the_truth(method: str, model: str, tmp_path) -> None:
    """Each layer rounds, and differently here and there. Both are compared with the same weights in float32."""
    mine, reference = pair(method, model, tmp_path, torch.bfloat16)
    x = torch.cat([inputs(model, torch.bfloat16, seed) for seed in range(12)])
    truth = outputs(copy.deepcopy(mine).float(), x.float() if x.is_floating_point() else x)
    ours, theirs = ((outputs(one, x).float() - truth).norm() / truth.norm() for one in (mine, reference))
    assert theirs < 0.05
    assert ours < 1.25 * theirs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients(method: str, model: str, dtype: torch.dtype, tmp_path) -> None:
    pissa_in_fp64(method, dtype)
    mine, reference = pair(method, model, tmp_path, dtype)
    x = inputs(model, dtype)
    for one in (mine, reference):
        outputs(one, x).square().mean().backward()
    layout, expected = layout_of(ours(method, model)), named_gradients(reference)
    if method == "lora-fa":  # what peft's optimizer leaves alone
        expected = {name: gradient for name, gradient in expected.items() if ".lora_A." not in name}
    checked = 0
    for module, layer in named_adapters(mine):
        for name, parameter in layer.named_parameters():
            if parameter.requires_grad and not name.startswith("base_layer."):
                gradient = layout.encode(layer, parameter.grad)
                assert_close(gradient, expected[layout.name(module, name)], 10 * bound(method, dtype))
                checked += 1
    assert checked == len(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge(method: str, model: str, dtype: torch.dtype, tmp_path) -> None:
    if (method, model) in NOT_MERGED:
        pytest.skip("nothing to fold, or nothing that peft folds")
    mine, reference = pair(method, model, tmp_path, dtype)
    merged, expected = merge(mine).state_dict(), reference.merge_and_unload().state_dict()
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        assert tensor.dtype == expected[name].dtype == dtype
        # ours is rounded once, peft's more often in bf16
        assert_close(tensor, expected[name], {torch.float32: 2e-6, torch.bfloat16: 0.02}[dtype])


def test_settings_survive_the_way_there_and_back(method: str, model: str, tmp_path) -> None:
    mine, _ = pair(method, model, tmp_path / "theirs")
    config = next(named_adapters(mine))[1].config
    save_adapter(mine, config, tmp_path / "ours")
    loaded = peft.PeftModel.from_pretrained(MODELS[model]()[1], tmp_path / "ours")
    loaded.save_pretrained(tmp_path / "again")
    again = load_adapter(MODELS[model]()[0], tmp_path / "again")
    assert layout_of(next(named_adapters(again))[1].config) is layout_of(config)
    first, second = adapter_state_dict(mine), adapter_state_dict(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_wrong_base_is_refused(method: str, model: str, tmp_path) -> None:
    """Another width and one layer fewer: the error lists what does not fit, and no adapter stays."""
    pair(method, model, tmp_path)
    other = wrong_base(model)
    with pytest.raises(ValueError, match=MISFIT):
        load_adapter(other, tmp_path)
    assert not list(named_adapters(other))


def wrong_base(model: str) -> nn.Module:
    if model == "decoder":
        return Decoder(replace(DECODER, num_hidden_layers=3, hidden_size=40))
    base = Biased()
    base.q_proj, base.norm, base.v_proj = nn.Linear(24, 36), nn.LayerNorm(36), nn.Linear(36, 12)
    return base
