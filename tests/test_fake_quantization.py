"""Simulated quantization: equal to the stored kind, right at its edges, and as accurate as theory says."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from peft_lessons.quantization import (
    dequantize,
    float_codebook,
    integer_codebook,
    normal_codebook,
    quantize,
    quantize_model,
)
from peft_lessons.quantization.simulated import FakeQuantizedLinear, fake_quantize

BITS = range(1, 9)
SCHEMES = ["symmetric", "affine", "normal", "float"]
FAMILIES = {"symmetric": integer_codebook, "normal": normal_codebook, "float": float_codebook}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The tensors are small, and test processes run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("scheme", FAMILIES)
def test_equals_what_storage_gives_back(scheme, bits, dtype):
    weight = torch.randn(37, 100).to(dtype)
    for granularity, block_size in [("block", 64), ("channel", 100), ("tensor", 3700)]:
        stored = dequantize(quantize(weight, FAMILIES[scheme](bits), block_size))
        assert torch.equal(fake_quantize(weight, bits, scheme, granularity, block_size), stored)


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_is_rounding_to_integers(bits):
    """The formula that every lesson starts with: round(x / scale) · scale with scale = absmax / (2^(bits−1) − 1)."""
    x = torch.randn(1000, dtype=torch.float64)
    scale = x.abs().max() / (2 ** (bits - 1) - 1)
    torch.testing.assert_close(fake_quantize(x, bits), (x / scale).round() * scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", BITS)
def test_affine_is_even_steps_from_minimum_to_maximum(bits):
    x = torch.randn(8, 33, dtype=torch.float64) + 3
    low, high = x.min(dim=1, keepdim=True).values, x.max(dim=1, keepdim=True).values
    steps = 2**bits - 1
    expected = ((x - low) / (high - low) * steps).round() / steps * (high - low) + low
    torch.testing.assert_close(fake_quantize(x, bits, "affine", "channel"), expected)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_shape_dtype_and_number_of_levels(scheme, granularity, bits, dtype):
    x = torch.randn(3, 5, 40).to(dtype)
    rounded = fake_quantize(x, bits, scheme, granularity, 32)
    assert rounded.shape == x.shape and rounded.dtype == dtype
    groups = {"tensor": [rounded], "channel": rounded.unbind(0), "block": rounded.flatten().split(32)}[granularity]
    assert all(len(group.unique()) <= 2**bits for group in groups)
    assert rounded.data_ptr() != x.data_ptr()


def test_groups_do_not_see_each_other():
    x = torch.randn(4, 64)
    for granularity in ("channel", "block"):
        rounded = fake_quantize(x, 3, "normal", granularity, 64)
        loud = x.clone()
        loud[2] *= 1000
        assert torch.equal(fake_quantize(loud, 3, "normal", granularity, 64)[[0, 1, 3]], rounded[[0, 1, 3]])
    assert not torch.equal(fake_quantize(loud, 3)[0], fake_quantize(x, 3)[0])


def test_affine_data_pass_unchanged():
    """As in GGUF's Q4_1: 32 weights are a half-precision minimum plus 0 … 15 half-precision steps."""
    minimum, step = torch.randn(500, 1).half().float(), torch.rand(500, 1).half().float() + 0.125
    numbers = torch.randint(0, 16, (500, 32))
    numbers[:, 3], numbers[:, 17] = 0, 15
    weight = minimum + numbers * step
    assert torch.equal(fake_quantize(weight, 4, "affine", "block", 32), weight)
    assert not torch.equal(fake_quantize(weight, 3, "affine", "block", 32), weight)
    assert not torch.equal(fake_quantize(weight, 4, "symmetric", "block", 32), weight)


values = st.lists(
    st.one_of(st.just(0.0), st.floats(2.0**-60, 2.0**60, width=32), st.floats(-(2.0**60), -(2.0**-60), width=32)),
    min_size=1,
    max_size=50,
)


@settings(max_examples=80, deadline=None)
@given(values=values, bits=st.integers(1, 8), block_size=st.integers(1, 60))
def test_error_is_at_most_half_a_step(values, bits, block_size):
    x = torch.tensor(values, dtype=torch.float64)
    for scheme in ("symmetric", "affine"):
        rounded = fake_quantize(x, bits, scheme, "block", block_size)
        for block, result in zip(x.split(block_size), rounded.split(block_size), strict=True):
            largest = block.abs().max()
            if scheme == "affine":
                step = (block.max() - block.min()) / (2**bits - 1)
            else:
                step = largest / (2 ** (bits - 1) - 1 if bits > 1 else 1)
            assert ((result - block).abs() <= step / 2 + 1e-7 * largest).all()


@settings(max_examples=80, deadline=None)
@given(
    values=values,
    bits=st.integers(2, 8),
    scheme=st.sampled_from(list(FAMILIES)),
    granularity=st.sampled_from(["tensor", "block"]),
)
def test_rounding_twice_is_rounding_once(values, bits, scheme, granularity):
    """The largest value is a level, so the scale stays. (One bit halves it; affine moves the maximum by an ulp.)"""
    once = fake_quantize(torch.tensor(values), bits, scheme, granularity, 16)
    assert torch.equal(fake_quantize(once, bits, scheme, granularity, 16), once)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", BITS)
def test_constants_zeros_and_single_values(scheme, bits):
    for constant in (0.0, 2.5, -1e-3):
        for shape in [(1,), (7,), (2, 3), ()]:
            x = torch.full(shape, constant)
            halved = bits == 1 and scheme != "affine"
            assert torch.equal(fake_quantize(x, bits, scheme), x / 2 if halved else x)
    x = torch.tensor([-0.0, 0.0, 1.0, -1.0])
    assert (fake_quantize(x, max(2, bits), scheme)[:2] == 0).all() or scheme == "affine"
    assert fake_quantize(torch.empty(0, 5), bits, scheme).shape == (0, 5)
    assert fake_quantize(torch.empty(0, 5), bits, scheme, "channel").shape == (0, 5)


def test_one_bit():
    x = torch.tensor([1.0, -4.0, 0.5, 2.0])
    for scheme in FAMILIES:
        assert fake_quantize(x, 1, scheme).tolist() == [2.0, -2.0, 2.0, 2.0]
    assert fake_quantize(x, 1, "affine").tolist() == [2.0, -4.0, 2.0, 2.0]


def test_across_chunks(monkeypatch):
    x = torch.randn(50, 77)
    whole = {scheme: fake_quantize(x, 4, scheme, "block", 10) for scheme in SCHEMES}
    monkeypatch.setattr("peft_lessons.quantization.cpu.CHUNK", 100)
    for scheme in SCHEMES:
        assert torch.equal(fake_quantize(x, 4, scheme, "block", 10), whole[scheme])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_gradient_passes_straight_through(scheme, dtype):
    x = torch.randn(6, 32, dtype=dtype, requires_grad=True)
    rounded = fake_quantize(x, 2, scheme, "block", 16)
    assert torch.equal(rounded, fake_quantize(x.detach(), 2, scheme, "block", 16))
    upstream = torch.randn_like(rounded)
    rounded.backward(upstream)
    assert torch.equal(x.grad, upstream)
    assert not fake_quantize(x.detach(), 2, scheme).requires_grad


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_non_finite_values_are_named(scheme, bad):
    x = torch.randn(3, 64)
    x[1, 7] = x[2, 0] = bad
    with pytest.raises(ValueError, match=r"2 of 192 are NaN or infinite.*first at index \(1, 7\)"):
        fake_quantize(x, 4, scheme, "block")


def test_a_range_beyond_the_dtype_is_refused():
    with pytest.raises(ValueError, match="overflows"):
        fake_quantize(torch.tensor([-3e38, 3e38]), 4, "affine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "from 1 to 8; given 0"),
        ({"bits": 9}, "from 1 to 8; given 9"),
        ({"bits": 4.0}, "from 1 to 8; given 4.0"),
        ({"bits": 4, "scheme": "nf4"}, "'symmetric', 'affine', 'normal', 'float'; given 'nf4'"),
        ({"bits": 4, "granularity": "row"}, "'tensor', 'channel', 'block'; given 'row'"),
        ({"bits": 4, "granularity": "block", "block_size": 0}, "at least 1; given 0"),
        ({"bits": 4, "granularity": "channel"}, r"given shape \(8,\)"),
    ],
)
def test_bad_options_name_what_is_possible(options, message):
    with pytest.raises(ValueError, match=message):
        fake_quantize(torch.randn(8), **options)


def test_only_floating_tensors():
    with pytest.raises(TypeError, match=r"torch\.int64"):
        fake_quantize(torch.arange(4), 4)


# accuracy


def decibels(x, rounded):
    return 20 * math.log10(x.norm() / (rounded - x).norm())


def test_a_bit_is_worth_six_decibels():
    """Uniform values, affine: 2^b − 1 steps over the range, so 20 log₁₀(2^b − 1) dB, which nears 6.02 dB a bit."""
    x = torch.rand(2**20, dtype=torch.float64) * 2 - 1
    ratios = [decibels(x, fake_quantize(x, bits, "affine")) for bits in range(2, 9)]
    assert ratios == pytest.approx([20 * math.log10(2**bits - 1) for bits in range(2, 9)], abs=0.03)
    assert ratios[-1] - ratios[-2] == pytest.approx(20 * math.log10(2), abs=0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_more_bits_and_finer_groups_err_less(scheme):
    x = torch.randn(256, 1024)
    ratios = [decibels(x, fake_quantize(x, bits, scheme, "block")) for bits in BITS]
    assert ratios == sorted(ratios)
    for bits in (2, 4):
        by_group = [decibels(x, fake_quantize(x, bits, scheme, group)) for group in ("tensor", "channel", "block")]
        assert by_group == sorted(by_group)
    coarser = [decibels(x, fake_quantize(x, 4, scheme, "block", size)) for size in (16, 64, 256, 1024, 4096)]
    assert coarser == sorted(coarser, reverse=True)


def test_four_bits_on_a_gaussian():
    x = torch.randn(2**20)
    error = {scheme: (fake_quantize(x, 4, scheme, "block") - x).square().mean().item() for scheme in SCHEMES}
    assert error["normal"] == pytest.approx(0.00845, abs=0.00004)
    assert error["symmetric"] / error["normal"] == pytest.approx(1.37, abs=0.02)
    assert error["float"] / error["normal"] == pytest.approx(1.32, abs=0.02)
    assert error["affine"] < error["normal"]  # but it stores a minimum beside each scale: 5 bits a weight against 4.5


# the layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layer_is_a_linear_layer_with_a_rounded_weight(bias, dtype):
    base = nn.Linear(100, 48, bias=bias, dtype=dtype)
    before = copy.deepcopy(base.state_dict())
    layer = FakeQuantizedLinear.from_linear(base, 3, "normal", "block", 32)
    assert isinstance(layer, nn.Linear) and (layer.in_features, layer.out_features) == (100, 48)
    assert torch.equal(layer.weight, fake_quantize(base.weight, 3, "normal", "block", 32))
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    assert (layer.bias is not None) == bias and (not bias or torch.equal(layer.bias, base.bias))
    x = torch.randn(5, 100, dtype=dtype, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, nn.functional.linear(x, layer.weight, layer.bias))
    y.sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        layer.weight.zero_()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_layer_keeps_the_mode(training):
    assert FakeQuantizedLinear.from_linear(nn.Linear(8, 4).train(training), 4).training is training


def test_layer_is_copied_saved_and_shown():
    layer = FakeQuantizedLinear.from_linear(nn.Linear(8, 4), 2, granularity="block")
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin.weight, layer.weight)
    other = FakeQuantizedLinear.from_linear(nn.Linear(8, 4), 2)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)
    assert repr(layer) == (
        "FakeQuantizedLinear(in_features=8, out_features=4, bias=True, "
        "bits=2, scheme=symmetric, one scale per block of 64)"
    )


def test_a_whole_model_is_simulated():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    stored = quantize_model(copy.deepcopy(model), codebook=normal_codebook(3))
    simulated = quantize_model(
        copy.deepcopy(model), layer=FakeQuantizedLinear, bits=3, scheme="normal", granularity="block"
    )
    x = torch.randn(5, 64)
    assert torch.equal(simulated(x), stored(x)) and not torch.equal(simulated(x), model(x))


@pytest.mark.parametrize("size", [1e-300, 1e-100, 1e-39, 1e200])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine", "normal", "float"])
def test_float64_keeps_its_range(scheme, granularity, size):
    """Scaling the values scales the result; up to rounding, since the sizes are no powers of two."""
    x = torch.randn(4, 65, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = fake_quantize(x, 4, scheme, granularity)
    torch.testing.assert_close(fake_quantize(x * size, 4, scheme, granularity) / size, expected, rtol=1e-12, atol=1e-12)
