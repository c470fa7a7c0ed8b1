"""Peft's own cases, as they are: its adapter loads here, computes the same, has the same gradients, and goes back."""

import copy
import re
import warnings
from pathlib import Path

import peft
import pytest
import torch
from parity import perturb_either
from peft_cases import CASES, MODELS, START, Case, inputs
from torch import nn

from peft_lessons import load_adapter, save_adapter
from peft_lessons.adapters import named_adapters
from peft_lessons.checkpoints.files import read_adapter, read_config
from peft_lessons.checkpoints.weights import tensor_places

# What is refused, and the reason that a user reads.
REFUSED = {
    "kasa_config": r"kasa_config=.*smallest singular values were dropped: merge",
    "init_weights": r"init_weights='bat' \(a variant that is not here: merge",
    "use_bdlora": r"use_bdlora=.*block-diagonal: merge",
}
NO_LAYER = r"adapts linear layers, got (Conv[123]d|MultiheadAttention)|groups=\d reads all channels"


# Peft writes the gradient of LoHa's kernel factors by hand, and takes the other factor's product in those of two.
WRONG_THERE = ("hada_w1_a", "hada_w2_a")


def base(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[case.model]().eval()


def reference(case: Case, folder: Path) -> peft.PeftModel:
    """Peft's model with random adapters, saved to `folder`."""
    start = {START[case.config]: False} if case.config in START else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base(case), case.config(**start | copy.deepcopy(case.settings))).eval()
        perturb_either(model)
        model.save_pretrained(folder)
    return model


def gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of all that trains, by peft's names in files, and of the input."""
    x = x.clone().requires_grad_(x.is_floating_point())
    model(x).square().mean().backward()
    found = {"x": x.grad} if x.is_floating_point() else {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and "ranknum" not in name:
            name = re.sub(r"modules_to_save\.default\.|\.default|(?<=magnitude_vector)\.default\.weight", "", name)
            found[name.replace("magnitude_vector.weight", "magnitude_vector")] = parameter.grad
    return found


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Float32 products in another order: a few roundings of the largest entry."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))


def reason(case: Case) -> str | None:
    return next((message for name, message in REFUSED.items() if case.settings.get(name)), None)


@pytest.mark.parametrize("case", [case for case in CASES if reason(case) is None], ids=str)
def test_a_case(case: Case, tmp_path) -> None:
    theirs, x = reference(case, tmp_path / "theirs"), inputs(case.model)
    try:
        ours = load_adapter(base(case), tmp_path / "theirs").eval()
    except TypeError as error:
        assert re.search(NO_LAYER, str(error))
        pytest.skip(str(error))
    close(ours(x), theirs(x))
    expected, layout = gradients(theirs, x), read_adapter(tmp_path / "theirs").layout
    if (own := gradients(ours, x).get("x")) is not None:
        close(own, expected.pop("x"))
    for place in tensor_places(list(named_adapters(ours)), layout):
        if place.name not in expected:
            continue  # MiCA freezes B in training, which is no part of what it computes
        gradient = expected.pop(place.name)
        if not (case.settings.get("use_effective_conv2d") and place.name.endswith(WRONG_THERE)):
            close(place.encode(place.tensor.grad), gradient)
    assert not expected, "what else trains in peft"
    save_adapter(ours, read_config(tmp_path / "theirs"), tmp_path / "ours")
    close(peft.PeftModel.from_pretrained(base(case), tmp_path / "ours").eval()(x), theirs(x))


@pytest.mark.parametrize("case", [case for case in CASES if reason(case)], ids=str)
def test_what_is_refused_has_a_reason(case: Case, tmp_path) -> None:
    reference(case, tmp_path)
    model = base(case)
    with pytest.raises((TypeError, ValueError), match=reason(case)):
        load_adapter(model, tmp_path)
    assert all(parameter.requires_grad for parameter in model.parameters())
