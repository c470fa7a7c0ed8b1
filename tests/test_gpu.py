"""The checks of a GPU, on a CPU: that they run, and that they can fail."""

import gpu
import pytest
import torch

from peft_lessons.methods.lora import LoRALinear

LONG = ("torch.compile", "real text")


@pytest.mark.parametrize("name", [name for name in gpu.CHECKS if name not in LONG])
def test_each_holds_on_a_cpu(name):
    assert gpu.CHECKS[name]("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_the_long_ones_hold_on_a_cpu(name):
    assert gpu.CHECKS[name]("cpu")


@pytest.mark.parametrize("method", ["lora", "dora", "prefix"])
def test_a_method_holds_on_a_cpu(method, monkeypatch):
    monkeypatch.setattr(gpu.contract, "CASES", [(method, "nf4")])
    assert gpu.methods("cpu") == "2 cases"


def test_a_wrong_product_is_found(monkeypatch, capsys):
    monkeypatch.setattr(LoRALinear, "scaling", property(lambda self: 1.5 * self.config.scaling))
    monkeypatch.setattr(gpu, "CHECKS", {"beside peft": gpu.beside_peft})
    assert gpu.main("cpu") == 1
    assert "FAILED  AssertionError: lora in a decoder: off by" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_claimed(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 0
    assert capsys.readouterr().out == "This computer has no GPU that torch can use: nothing was checked.\n"
