"""One contract for every method on every base."""

import copy
import io

import pytest
import torch
from contract import (
    BASES,
    CASES,
    IN,
    METHODS,
    OUT,
    Network,
    network,
    perturb,
    sample,
)
from method_cases import NOT_FOLDABLE, READS_IDS, STARTS_ELSEWHERE
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from peft_lessons import (
    AdapterLayer,
    LoRAConfig,
    adapter_state_dict,
    adapters_disabled,
    inject,
    load_adapter,
    merge,
    remove_adapters,
    save_adapter,
    trainable_parameters,
)
from peft_lessons.adapters import load_adapter_state_dict, named_adapters
from peft_lessons.linear import factors

pytestmark = pytest.mark.parametrize(("method", "base"), CASES)

DTYPES = [torch.float32, torch.bfloat16]


def adapted(method: str, base: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network with its adapters, at their start; the same at each call."""
    return inject(network(method, base, dtype), METHODS[method])


def perturbed(method: str, base: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    return perturb(adapted(method, base, dtype))


def state_of_bases(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items() if "base_layer." in name}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, bound: float) -> None:
    """Equal up to `bound` times the largest entry: rounding errors have the size of the sums, not of each entry."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound * expected.abs().max().item())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_starts_as_the_base(method: str, base: str, dtype: torch.dtype) -> None:
    model, x = network(method, base, dtype), sample(method, dtype)
    before = model(x)
    start = inject(model, METHODS[method])(x)
    assert start.dtype == before.dtype == dtype
    assert start.shape == before.shape
    assert torch.equal(start, before) == (method not in STARTS_ELSEWHERE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_starts_as_the_base_under_autocast(method: str, base: str, dtype: torch.dtype) -> None:
    """Made under autocast or outside of it: the same parameters, and the outputs that the base has under autocast."""
    model, x = network(method, base, dtype), sample(method, dtype)
    for vector in (parameter for parameter in model.parameters() if parameter.ndim == 1):
        nn.init.normal_(vector)  # of norms, too: numbers that bf16 does not hold
    outside = inject(copy.deepcopy(model), seeded(METHODS[method]))
    with torch.autocast("cpu", torch.bfloat16):
        before = model(x)
        start = inject(model, seeded(METHODS[method]))(x)
    assert start.dtype == before.dtype
    assert torch.equal(start, before) == (method not in STARTS_ELSEWHERE)
    assert same(adapter_state_dict(model), adapter_state_dict(outside))
    assert all(adapter_state_dict(model)[n].dtype == t.dtype for n, t in adapter_state_dict(outside).items())


def seeded(config):
    torch.manual_seed(5)
    return config


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_what_is_made_in_other_modes_trains(method: str, base: str, mode) -> None:
    model, x = network(method, base), sample(method)
    with mode():
        inject(model, METHODS[method])
    model(x).square().sum().backward()
    assert any(parameter.grad is not None for parameter in trainable_parameters(model))


def test_merging_does_not_depend_on_the_mode(method: str, base: str) -> None:
    if method in NOT_FOLDABLE:
        pytest.skip("nothing to fold")
    expected = merge(perturbed(method, base)).state_dict()
    for mode in (torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), torch.no_grad()):
        model = perturbed(method, base)
        with mode:
            merge(model)
        assert same(model.state_dict(), expected)
        assert not any(parameter.is_inference() for parameter in model.parameters())


def test_a_default_dtype_or_device_changes_nothing(method: str, base: str) -> None:
    torch.manual_seed(5)
    expected = perturb(inject(network(method, base), seeded(METHODS[method])))
    model = network(method, base)
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        inject(model, seeded(METHODS[method]))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    perturb(model)
    assert same(adapter_state_dict(model), adapter_state_dict(expected))
    if method in NOT_FOLDABLE:
        return
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        merge(model)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert same(model.state_dict(), merge(expected).state_dict())


def test_it_reads_like_the_merged_layer(method: str, base: str) -> None:
    model = perturbed(method, base)
    if method in NOT_FOLDABLE:  # no weight computes the same
        assert not any(hasattr(layer, "weight") for _, layer in named_adapters(model))
        return
    for _, layer in named_adapters(model):
        merged = layer.merged()
        assert torch.equal(layer.weight, merged.weight)
        assert layer.bias is merged.bias or torch.equal(layer.bias, merged.bias)
        if method != "layer-norm":
            assert (layer.in_features, layer.out_features) in ((IN, OUT), (OUT, IN))
            assert layer.weight.requires_grad or layer.bias.requires_grad
    with adapters_disabled(model):
        for _, layer in named_adapters(model):
            assert torch.equal(layer.weight, layer.base_layer.weight)


def test_stirring_changes_the_output(method: str, base: str) -> None:
    model, x = adapted(method, base), sample(method)
    before = model(x)
    assert not torch.allclose(perturb(model)(x), before, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_merged_equals_forward(method: str, base: str, dtype: torch.dtype) -> None:
    model, x = perturbed(method, base, dtype), sample(method, dtype)
    if method in NOT_FOLDABLE:
        before = dict(model.named_modules())
        with pytest.raises(TypeError, match="cannot be folded into"):
            merge(model)
        assert dict(model.named_modules()) == before
        return
    bases = state_of_bases(model)
    # a weight rounded once to bf16 moves each product by at most 2^-8 of it
    bound = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 0.02}[dtype]
    for layer, inputs, output in traced(model, x):
        merged = layer.merged()
        assert type(merged) is plain_kind(method, base)
        assert merged.weight.dtype == dtype
        assert not any(parameter.requires_grad for parameter in merged.parameters())
        assert_close(merged(inputs), output, bound)
    expected = model(x)
    assert same(state_of_bases(model), bases), "merging wrote to the base"
    assert merge(model) is model
    assert not any(isinstance(module, AdapterLayer) for module in model.modules())
    assert_close(model(x), expected, 2.5 * bound)


def plain_kind(method: str, base: str) -> type[nn.Module]:
    """A dense layer; in place of a Conv1D a Conv1D."""
    if method == "layer-norm":
        return nn.LayerNorm
    return Conv1D if base == "conv1d" else nn.Linear


def traced(model: nn.Module, x: torch.Tensor) -> list[tuple[AdapterLayer, torch.Tensor, torch.Tensor]]:
    """Each adapter with what it read and what it gave."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: seen.append((layer, inputs[0], output)))
        for _, layer in named_adapters(model)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    assert seen
    return seen


def test_its_factors_are_what_it_adds(method: str, base: str) -> None:
    """L (R x) beside the base, where a method says that it computes so: what drafts and mixtures go by."""
    model, x = perturbed(method, base, torch.float64), sample(method, torch.float64)
    for layer, inputs, output in traced(model, x):
        if (pair := factors(layer)) is not None:
            left, right = pair
            assert_close(layer.base_layer(inputs) + inputs @ right.T @ left.T, output, 1e-12)


def test_only_the_adapter_trains(method: str, base: str) -> None:
    model, x = perturbed(method, base).train(), sample(method)
    bases = state_of_bases(model)
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=0.1)
    model(x).square().sum().backward()
    adapters = adapter_state_dict(model)
    assert any(parameter.requires_grad for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        expected = name in adapters and parameter.requires_grad
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) == expected, name
    optimizer.step()
    assert same(state_of_bases(model), bases)


def test_input_gradient_is_that_of_the_merged_layer(method: str, base: str) -> None:
    if method in NOT_FOLDABLE:
        pytest.skip("nothing to fold; gradients are checked in float64")
    model, inputs = perturbed(method, base), sample(method).requires_grad_()
    (through_adapter,) = torch.autograd.grad(model(inputs).square().sum(), inputs)
    (through_merged,) = torch.autograd.grad(merge(model)(inputs).square().sum(), inputs)
    assert_close(through_adapter, through_merged, 1e-5)


def test_disabled_is_the_base_bit_for_bit(method: str, base: str) -> None:
    model, x = perturbed(method, base), sample(method)
    # LoftQ's base is the quantized one that it made
    plain = (remove_adapters(copy.deepcopy(model)) if method == "loftq" else network(method, base))(x)
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


def test_modes_mutate_nothing(method: str, base: str) -> None:
    model, x = perturbed(method, base), sample(method)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(3):
        model.train()(x)
        model.eval()(x)
    assert same(dict(model.state_dict()), before)


def test_state_goes_to_a_fresh_model(method: str, base: str) -> None:
    model, x = perturbed(method, base), sample(method)
    fresh = adapted(method, base)
    load_adapter_state_dict(fresh, adapter_state_dict(model))
    assert torch.equal(fresh(x), model(x))


def test_save_and_load(method: str, base: str, tmp_path) -> None:
    model, x = perturbed(method, base), sample(method)
    save_adapter(model, METHODS[method], tmp_path / "adapter")
    loaded = load_adapter(network(method, base), tmp_path / "adapter").eval()
    assert torch.equal(loaded(x), model(x))
    # on disk LoRA-FA is LoRA: which matrix trained is not part of what it computes
    expected = LoRAConfig(**vars(METHODS[method])) if method == "lora-fa" else METHODS[method]
    assert {layer.config for _, layer in named_adapters(loaded)} == {expected}
    assert same(adapter_state_dict(loaded), adapter_state_dict(model))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(method: str, base: str, how: str) -> None:
    model, x = perturbed(method, base), sample(method)
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    expected = model(x)
    assert torch.equal(twin(x), expected)
    perturb(twin)
    assert torch.equal(model(x), expected), "the copy shares weights with its original"


def test_moving_to_bf16_keeps_working(method: str, base: str) -> None:
    model, x = perturbed(method, base), sample(method)
    expected = model(x)
    moved = model.to(torch.bfloat16)(x.bfloat16() if x.is_floating_point() else x)
    assert moved.dtype == torch.bfloat16
    assert_close(moved.float(), expected, 0.05)


def test_under_autocast(method: str, base: str) -> None:
    model, x = perturbed(method, base), sample(method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
        assert y.dtype == network(method, base)(x).dtype
    assert_close(y.float(), model(x), 0.05)


def test_gradients_in_float64(method: str, base: str) -> None:
    """Against differences: of the input, and of every parameter. DoRA's gradient is that of a norm held constant."""
    model, x = perturbed(method, base, torch.float64), sample(method, torch.float64)[:2, :2].contiguous()
    if method not in READS_IDS:
        assert torch.autograd.gradcheck(model, (x.requires_grad_(),), eps=1e-6, atol=1e-5, fast_mode=True)
    if method == "dora":
        return
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)

    def outputs(*values: torch.Tensor) -> torch.Tensor:
        return functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(outputs, parameters, eps=1e-6, atol=1e-5, fast_mode=True)


def test_many_rows_at_once(method: str, base: str) -> None:
    """Long batches take another way through the products than short ones: outputs and gradients are the same."""
    if method in READS_IDS:
        pytest.skip("their products are those of the base")
    model = perturbed(method, base, torch.float64)
    x = torch.randn(40, 7, IN, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    results = []
    for parts in (x.split(1), (x,)):
        inputs = [part.clone().requires_grad_() for part in parts]
        y = torch.cat([model(part) for part in inputs])
        y.square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in trainable_parameters(model)]
        model.zero_grad()
        results.append([y, torch.cat([part.grad for part in inputs]), *gradients])
    for short, long in zip(*results, strict=True):
        assert_close(long, short, 1e-12)


def test_tied_weights_are_not_written_to(method: str, base: str) -> None:
    class Tied(Network):
        def __init__(self) -> None:
            super().__init__(BASES["dense"])
            self.embedding = nn.Embedding(IN, OUT)
            self.second.weight = self.embedding.weight  # (IN, OUT): the weight of a layer OUT → IN

    if method in NOT_FOLDABLE or base != "dense":
        pytest.skip("a quantized weight is nobody else's; what is not folded writes to nothing")
    torch.manual_seed(0)
    model, x = perturb(inject(Tied().eval(), METHODS[method])), sample(method)
    table = model.embedding.weight.clone()
    expected = model(x)
    merge(model)
    assert torch.equal(model.embedding.weight, table), "merging leaked into the embedding"
    assert (model.second.weight is not model.embedding.weight) == (method != "layer-norm")
    assert_close(model(x), expected, 5e-6)
