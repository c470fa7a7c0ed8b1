"""What is computed once and kept does not depend on the modes of whoever asks for it first."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from test_smollm2 import example
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from peft_lessons import NF4, LoRAConfig, QuantizedLinear, dequantize, inject, merge, quantize, quantize_model
from peft_lessons.exact import exact
from peft_lessons.models import load_tiny_gpt
from peft_lessons.models.gguf import GGUFFile
from peft_lessons.models.smollm2_4bit import Q4Linear
from peft_lessons.quantization import cpu, normal_codebook


@contextmanager
def default(dtype: torch.dtype | None = None, device: str | None = None) -> Iterator[None]:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype or before)
        torch.set_default_device(device)
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "no grad": torch.no_grad,
    "default bf16": lambda: default(torch.bfloat16),
    "default fp64": lambda: default(torch.float64),
    "default device": lambda: default(device="meta"),
}
in_every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


@pytest.fixture(autouse=True)
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_TABLES", {})


def test_it_switches_off_and_gives_back() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        with exact(), exact():
            assert not torch.is_autocast_enabled("cpu") and not torch.is_inference_mode_enabled()
            assert not torch.is_grad_enabled()
            assert not torch.ones(2).is_inference()
        assert torch.is_autocast_enabled("cpu") and torch.is_inference_mode_enabled()
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), exact():
            assert torch.is_grad_enabled() == enabled, "outside of inference mode gradients are the caller's to choose"
    with pytest.raises(RuntimeError, match="stop"), torch.autocast("cpu", torch.bfloat16):
        try:
            with exact():
                raise RuntimeError("stop")
        finally:
            assert torch.is_autocast_enabled("cpu")


@in_every_mode
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("codebook", [NF4, normal_codebook(3), normal_codebook(8)], ids=lambda codebook: codebook.name)
def test_codes_and_values(codebook, double: bool, mode) -> None:
    weight = torch.randn(33, 100, generator=torch.Generator().manual_seed(0))
    expected = quantize(weight, codebook, double=double)
    values = dequantize(expected)
    cpu._TABLES.clear()
    with mode():
        quantized = quantize(weight, codebook, double=double)
        assert torch.equal(dequantize(quantized), values)
        assert torch.equal(QuantizedLinear(quantized).weight, values)
    for ours, wanted in zip(quantized.tensors, expected.tensors, strict=True):
        assert ours is wanted or (ours.dtype == wanted.dtype and torch.equal(ours, wanted))
    assert torch.equal(dequantize(quantized), values)


@pytest.mark.parametrize("double", [False, True])
def test_codes_do_not_depend_on_threads(double: bool) -> None:
    """131,072 scales: torch adds so many up in parts, one for each thread."""
    weight = torch.randn(2**17, generator=torch.Generator().manual_seed(0))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(quantize(weight, block_size=1, double=double))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for ours, theirs in zip(results[0].tensors, other.tensors, strict=True):
            assert ours is theirs or torch.equal(ours, theirs)


@in_every_mode
def test_a_model_quantized_in_any_mode_trains(mode) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6))
    with mode():
        inject(quantize_model(model), LoRAConfig(rank=2, targets=("0",)))
    x = torch.randn(3, 8, requires_grad=True)
    model(x).square().sum().backward()
    assert model[0].lora_B.grad is not None and x.grad is not None
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def exported(layer: nn.Module, x: torch.Tensor) -> None:
    torch.export.export(nn.Sequential(layer), (x,))


def made_fake(layer: nn.Module, x: torch.Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        layer(mode.from_tensor(x))


@pytest.mark.parametrize("trace", [exported, made_fake])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("codebook", [NF4, normal_codebook(3)], ids=lambda codebook: codebook.name)
def test_tracing_leaves_no_tensor_without_numbers_behind(codebook, double: bool, trace) -> None:
    """As the first reading of the process, and after others."""
    layer, x = QuantizedLinear.from_linear(nn.Linear(128, 64), codebook, double=double), torch.randn(2, 128)
    for _ in range(2):
        trace(layer, x)
        assert all(type(table) is torch.Tensor for table in cpu._TABLES.values())
        table = torch.tensor(codebook.values)
        levels = (layer.weight.view(-1, 64) / layer.quantized.scales[:, None]).flatten()
        assert (levels[:, None] - table).abs().min(dim=1).values.max() < 1e-6


@pytest.mark.parametrize("large", [2**23, 1])
def test_an_exported_layer_computes_the_same(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "LARGE", large)
    layer, x = QuantizedLinear.from_linear(nn.Linear(128, 64)), torch.randn(2, 128)
    program = torch.export.export(nn.Sequential(layer), (x,))
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("mode", [MODES["default bf16"], MODES["default fp64"], MODES["default device"]])
def test_tensors_of_a_gguf_file(mode, tmp_path) -> None:
    path, tensors = example(tmp_path / "model.gguf")
    file = GGUFFile(path)
    blocks = torch.randint(256, (6, 40), dtype=torch.uint8)
    blocks.view(6, 2, 20)[:, :, :4] = torch.rand(6, 4).half().view(torch.uint8).view(6, 2, 4)
    expected = Q4Linear(blocks).weight
    before = {name: file.tensor(name) for name in tensors}
    with mode():
        for name, tensor in before.items():
            read = file.tensor(name)
            assert read.dtype == torch.float32 and torch.equal(read, tensor)
        assert torch.equal(Q4Linear(blocks).weight, expected)


@in_every_mode
def test_a_loaded_model(mode) -> None:
    expected, _ = load_tiny_gpt()
    with mode():
        model, _ = load_tiny_gpt()
    for (name, mine), (_, other) in zip(model.state_dict().items(), expected.state_dict().items(), strict=True):
        assert mine.dtype == torch.float32 and torch.equal(mine, other), name
    ids = torch.arange(5)[None]
    assert torch.equal(model(ids), expected(ids))
    assert not any(parameter.is_inference() for parameter in model.parameters())


def test_deltas_and_directions_are_not_rounded_by_autocast() -> None:
    from contract import METHODS, network, perturb

    for method in ("lora", "dora", "pissa", "loftq", "adalora", "vera", "loha", "oft", "oft-neumann"):
        layer = perturb(inject(network(method, "dense"), METHODS[method])).first
        functions = [getattr(layer, name) for name in ("delta", "directions", "rotations") if hasattr(layer, name)]
        assert functions
        for function in functions:
            expected = function()
            with torch.autocast("cpu", torch.bfloat16):
                rounded = function()
            assert rounded.dtype == expected.dtype == torch.float32 and torch.equal(rounded, expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "dora", "loha", "oft"])
def test_it_compiles_into_one_graph(method: str) -> None:
    from contract import METHODS, network, perturb, sample

    model, x = perturb(inject(network(method, "dense"), METHODS[method])), sample(method)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            torch.testing.assert_close(compiled(x), model(x))


def test_merging_under_autocast_is_the_float64_sum_rounded_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, dtype=torch.bfloat16))
    inject(model, LoRAConfig(rank=2, alpha=2, targets=("0",)))
    nn.init.normal_(model[0].lora_B, std=0.01)
    exact_sum = model[0].base_layer.weight.double() + model[0].lora_B.double() @ model[0].lora_A.double()
    with torch.autocast("cpu", torch.bfloat16):
        merged = merge(model)[0].weight
    # fp32 holds the sum to 2^-24, so rounding it once is rounding the exact sum, but for near ties
    assert (merged == exact_sum.bfloat16()).float().mean() > 0.999
