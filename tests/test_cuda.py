"""The checks of a GPU, on a CPU: that they run, and that they can fail."""

import cuda
import pytest
import torch

from peft_lessons.methods.lora import LoRALinear


@pytest.mark.parametrize("name", [name for name in cuda.CHECKS if name not in ("methods", "real text")])
def test_each_holds_on_a_cpu(name):
    assert cuda.CHECKS[name]("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["methods", "real text"])
def test_the_long_ones_hold_on_a_cpu(name):
    assert cuda.CHECKS[name]("cpu")


@pytest.mark.parametrize("method", ["lora", "dora", "prefix"])
def test_a_method_holds_on_a_cpu(method, monkeypatch):
    monkeypatch.setattr(cuda.contract, "CASES", [(method, "nf4")])
    assert cuda.methods("cpu") == "2 cases"


def test_a_wrong_product_is_found(monkeypatch, capsys):
    monkeypatch.setattr(LoRALinear, "scaling", property(lambda self: 1.5 * self.config.scaling))
    monkeypatch.setattr(cuda, "CHECKS", {"beside peft": cuda.beside_peft})
    assert cuda.main("cpu") == 1
    assert "FAILED  AssertionError: lora in a decoder: off by" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_claimed(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.main() == 0
    assert capsys.readouterr().out == "This computer has no GPU that torch can use: nothing was checked.\n"
