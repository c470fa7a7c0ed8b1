"""One contract for every method on every base."""

import copy
import io

import pytest
import torch
from contract import BASES, IN, METHODS, OUT, Network, network, stir
from torch import nn

from peft_lessons import (
    AdapterLayer,
    adapter_state_dict,
    adapters_disabled,
    inject,
    load_adapter,
    merge,
    save_adapter,
    trainable_parameters,
)
from peft_lessons.adapters import load_adapter_state_dict, named_adapters

pytestmark = [pytest.mark.parametrize("method", METHODS), pytest.mark.parametrize("base", BASES)]

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(5, 3, IN, generator=torch.Generator().manual_seed(2))


def state_of_bases(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items() if ".base_layer." in name}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, bound: float) -> None:
    """Equal up to `bound` times the largest entry: rounding errors have the size of the sums, not of each entry."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound * expected.abs().max().item())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_starts_as_the_base(method: str, base: str, dtype: torch.dtype, x: torch.Tensor) -> None:
    model = network(base, dtype)
    x = x.to(dtype)
    before = model(x)
    assert torch.equal(inject(model, METHODS[method])(x), before)
    assert before.dtype == dtype


def test_stirring_changes_the_output(method: str, base: str, x: torch.Tensor) -> None:
    model = inject(network(base), METHODS[method])
    before = model(x)
    assert not torch.allclose(stir(model)(x), before, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_merged_equals_forward(method: str, base: str, dtype: torch.dtype, x: torch.Tensor) -> None:
    model = stir(inject(network(base, dtype), METHODS[method]))
    bases = state_of_bases(model)
    layers = [layer for _, layer in named_adapters(model)]
    x = x.to(dtype)
    expected = model(x)
    pieces = [(layer, torch.randn(7, layer.in_features, dtype=dtype)) for layer in layers]
    for layer, piece in pieces:
        merged = layer.merged()
        assert type(merged) is nn.Linear
        assert merged.weight.dtype == dtype
        # a weight rounded once to bf16 moves each product by at most 2^-8 of it
        assert_close(
            merged(piece), layer(piece), {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 0.02}[dtype]
        )
    assert same(state_of_bases(model), bases), "merging wrote to the base"
    assert merge(model) is model
    assert not any(isinstance(module, AdapterLayer) for module in model.modules())
    assert_close(model(x), expected, {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 0.05}[dtype])


def test_only_the_adapter_trains(method: str, base: str, x: torch.Tensor) -> None:
    model = stir(inject(network(base), METHODS[method])).train()
    bases = state_of_bases(model)
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=0.1)
    model(x).square().sum().backward()
    adapters = adapter_state_dict(model)
    for name, parameter in model.named_parameters():
        expected = name in adapters and parameter.requires_grad
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) == expected, name
    optimizer.step()
    assert same(state_of_bases(model), bases)


def test_input_gradient_is_that_of_the_merged_layer(method: str, base: str, x: torch.Tensor) -> None:
    model = stir(inject(network(base), METHODS[method])).eval()
    inputs = x.clone().requires_grad_()
    (through_adapter,) = torch.autograd.grad(model(inputs).square().sum(), inputs)
    (through_merged,) = torch.autograd.grad(merge(model)(inputs).square().sum(), inputs)
    assert_close(through_adapter, through_merged, 1e-5)


def test_disabled_is_the_base_bit_for_bit(method: str, base: str, x: torch.Tensor) -> None:
    plain = network(base)(x)
    model = stir(inject(network(base), METHODS[method]))
    adapted = model(x)
    with adapters_disabled(model):
        assert torch.equal(model(x), plain)
        with adapters_disabled(model):
            assert torch.equal(model(x), plain)
        assert torch.equal(model(x), plain), "the inner context switched the adapters on again"
    assert torch.equal(model(x), adapted)
    with pytest.raises(RuntimeError, match="stop"), adapters_disabled(model):
        raise RuntimeError("stop")
    assert torch.equal(model(x), adapted), "an exception left the adapters off"


def test_modes_mutate_nothing(method: str, base: str, x: torch.Tensor) -> None:
    model = stir(inject(network(base), METHODS[method]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(3):
        model.train()(x)
        model.eval()(x)
    assert same(dict(model.state_dict()), before)


def test_state_goes_to_a_fresh_model(method: str, base: str, x: torch.Tensor) -> None:
    model = stir(inject(network(base), METHODS[method]))
    fresh = inject(network(base), METHODS[method])
    load_adapter_state_dict(fresh, adapter_state_dict(model))
    assert torch.equal(fresh(x), model(x))


def test_save_and_load(method: str, base: str, x: torch.Tensor, tmp_path) -> None:
    model = stir(inject(network(base), METHODS[method]))
    save_adapter(model, METHODS[method], tmp_path / "adapter")
    loaded = load_adapter(network(base), tmp_path / "adapter")
    assert torch.equal(loaded.eval()(x), model(x))
    assert {type(layer.config) for _, layer in named_adapters(loaded)} == {type(METHODS[method])}


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(method: str, base: str, how: str, x: torch.Tensor) -> None:
    model = stir(inject(network(base), METHODS[method]))
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    expected = model(x)
    assert torch.equal(twin(x), expected)
    stir(twin)
    assert torch.equal(model(x), expected), "the copy shares weights with its original"


def test_moving_to_bf16_keeps_working(method: str, base: str, x: torch.Tensor) -> None:
    model = stir(inject(network(base), METHODS[method]))
    expected = model(x)
    moved = model.to(torch.bfloat16)(x.bfloat16())
    assert_close(moved.float(), expected, 0.05)


def test_under_autocast(method: str, base: str, x: torch.Tensor) -> None:
    model = stir(inject(network(base), METHODS[method]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    assert_close(y.float(), model(x), 0.05)


def test_gradients_equal_autograd_in_float64(method: str, base: str) -> None:
    model = stir(inject(network(base, torch.float64), METHODS[method])).eval()
    x = torch.randn(2, IN, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (x,), eps=1e-6, atol=1e-5)


def test_tied_weights_are_not_written_to(method: str, base: str, x: torch.Tensor) -> None:
    class Tied(Network):
        def __init__(self) -> None:
            super().__init__(BASES["dense"])
            self.embedding = nn.Embedding(IN, OUT)
            self.second.weight = self.embedding.weight  # (IN, OUT): the weight of a layer OUT → IN

    torch.manual_seed(0)
    model = stir(inject(Tied().eval(), METHODS[method]))
    table = model.embedding.weight.clone()
    expected = model(x)
    merge(model)
    assert torch.equal(model.embedding.weight, table), "merging leaked into the embedding"
    assert model.second.weight is not model.embedding.weight
    assert_close(model(x), expected, 1e-6)
