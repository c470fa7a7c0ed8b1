"""Real quantization against bitsandbytes, against its own definition, and under what a module goes through."""

import copy
import dataclasses
import io
import itertools
import logging
import math
import mmap
import pickle
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from peft_lessons.quantization import (
    DYNAMIC8,
    FP4,
    NF4,
    Codebook,
    QuantizedLinear,
    QuantizedTensor,
    dequantize,
    float_codebook,
    integer_codebook,
    normal_codebook,
    quantize,
    quantize_model,
)
from peft_lessons.quantization.cpu import nearest_codes
from peft_lessons.quantization.linear import tiles
from peft_lessons.quantization.packing import pack, unpack

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
bitsandbytes = pytest.importorskip("bitsandbytes.functional")

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
ALL_CODEBOOKS = [
    FP4,
    *(family(bits) for family in (integer_codebook, normal_codebook, float_codebook) for bits in range(1, 9)),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The tensors are small, and test processes run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seeded_and_eager():
    torch.manual_seed(0)
    with torch.compiler.set_stance("force_eager"):  # bitsandbytes compiles for each odd shape, for seconds
        yield


def gaussian(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype)


MAGNITUDES = st.floats(2.0**-99, 2.0**99, width=32)


def plain_dequantize(quantized: QuantizedTensor) -> torch.Tensor:
    """The definition, value by value."""
    codes = unpack(quantized.codes, quantized.codebook.bits, math.prod(quantized.shape)).tolist()
    absmax = quantized.absmax
    if quantized.offset is not None:
        repeated = quantized.second_absmax.repeat_interleave(256)[: len(absmax)]
        absmax = torch.tensor(DYNAMIC8.values)[absmax.long()] * repeated + quantized.offset
    scales = absmax.repeat_interleave(quantized.block_size)[: len(codes)]
    levels = torch.tensor([quantized.codebook.values[code] for code in codes], dtype=torch.float32)
    return (levels * scales).view(quantized.shape).to(quantized.dtype)


# codebooks


def test_nf4_derives_from_normal_quantiles():
    """Eight positive quantiles, seven negative, and zero, over the largest; from float32 probabilities bit for bit."""
    outermost = 0.9677083
    assert outermost == pytest.approx(((1 - 1 / 30) + (1 - 1 / 32)) / 2, abs=1e-7)

    def derived(dtype):
        positive = norm.ppf(torch.linspace(outermost, 0.5, 9, dtype=dtype))[:8]
        negative = -norm.ppf(torch.linspace(outermost, 0.5, 8, dtype=dtype))[:7]
        levels = sorted(float(level) for level in [*positive, *negative, 0.0])
        return [level / max(levels) for level in levels]

    assert NF4.levels == pytest.approx(derived(torch.float64), abs=1.1e-7)
    assert torch.equal(torch.tensor(NF4.levels), torch.tensor(derived(torch.float32)))
    assert normal_codebook(4) is NF4


@pytest.mark.parametrize("codebook", [NF4, FP4], ids=lambda codebook: codebook.name)
def test_tables_are_those_of_bitsandbytes(codebook):
    table = bitsandbytes.get_4bit_type(codebook.name.lower(), device="cpu")
    assert torch.equal(torch.tensor(codebook.values), table)


def test_dynamic_map_is_that_of_bitsandbytes():
    assert torch.equal(torch.tensor(DYNAMIC8.values), bitsandbytes.create_dynamic_map())


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7, 8])
def test_normal_codebooks_are_quantiles(bits):
    levels = normal_codebook(bits).levels
    half = 2 ** (bits - 1)
    outermost = 1 - (1 / (2 * (2 * half - 1)) + 1 / (4 * half)) / 2
    largest = norm.ppf(outermost)
    probabilities = norm.cdf([level * largest for level in levels])
    assert len(levels) == 2**bits and levels[half - 1] == 0.0
    assert (levels[0], levels[-1]) == (-1.0, 1.0)
    upper, lower = probabilities[half - 1 :], probabilities[:half]
    assert upper[1:] - upper[:-1] == pytest.approx((outermost - 0.5) / half, abs=1e-6)
    assert lower[1:] - lower[:-1] == pytest.approx((outermost - 0.5) / (half - 1), abs=1e-6)


def test_integer_codebook_counts_integers():
    assert [round(7 * level, 5) for level in integer_codebook(4).levels] == list(range(-7, 8))
    assert integer_codebook(2).levels == (-1.0, 0.0, 1.0)


@pytest.mark.parametrize(("bits", "dtype"), [(8, torch.float8_e4m3fn)])
def test_float_codebook_has_the_levels_of_e4m3(bits, dtype):
    """Every finite float8 below torch's 448; ours has one more row, since torch spends 480 on NaN."""
    every = torch.arange(256).to(torch.uint8).view(dtype).float()
    levels = sorted({float(value) for value in every[every.isfinite()]} | {480.0, -480.0})
    assert [level * 480 for level in float_codebook(bits).levels] == pytest.approx(levels, rel=1e-6)


def test_e2m1():
    magnitudes = [level * 6 for level in float_codebook(4).levels if level >= 0]
    assert magnitudes == pytest.approx([0, 0.5, 1, 1.5, 2, 3, 4, 6])


@pytest.mark.parametrize("family", [integer_codebook, normal_codebook, float_codebook])
def test_one_bit_is_the_sign_at_half_the_range(family):
    assert family(1).levels == (-0.5, 0.5)
    weight = torch.tensor([3.0, -4.0, 1.0, 2.0])
    assert dequantize(quantize(weight, family(1))).tolist() == [2.0, -2.0, 2.0, 2.0]


@pytest.mark.parametrize("bits", [0, 9, -1, 4.0, True, "4"])
@pytest.mark.parametrize("family", [integer_codebook, normal_codebook, float_codebook])
def test_bits_out_of_range(family, bits):
    with pytest.raises(ValueError, match="from 1 to 8"):
        family(bits)


def test_codebook_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="2 to 256"):
        Codebook("one", (1.0,))
    with pytest.raises(ValueError, match="2 to 256"):
        Codebook("many", tuple(range(257)))
    with pytest.raises(ValueError, match="finite"):
        Codebook("endless", (0.0, math.inf))


# equal to bitsandbytes


@pytest.mark.parametrize("codebook", [NF4, FP4], ids=lambda codebook: codebook.name)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(96, 256), (1000,), (7, 13), (33, 100), (3, 5, 32), (64, 129), (1, 1), (70, 4096)])
@pytest.mark.parametrize("block_size", [32, 64, 128, 256, 1024, 4096])
def test_codes_absmax_and_values_equal_bitsandbytes(codebook, dtype, shape, block_size):
    weight = gaussian(*shape, dtype=dtype)
    codes, state = bitsandbytes.quantize_4bit(weight, blocksize=block_size, quant_type=codebook.name.lower())
    ours = quantize(weight, codebook, block_size)
    assert torch.equal(ours.codes, codes.flatten())
    assert torch.equal(ours.absmax, state.absmax)
    # bitsandbytes' compiled CPU kernel reads the wrong scale where blocks straddle rows (0.50.2), so there its own
    # Python implementation, which every other backend falls back to, speaks for it.
    whole_blocks_per_row = shape[-1] % block_size == 0
    theirs = (
        bitsandbytes.dequantize_4bit(codes, state)
        if whole_blocks_per_row
        else default_dequantize(codes, state, weight.numel())
    )
    assert torch.equal(dequantize(ours), theirs.view(shape))


def default_dequantize(codes, state, count):
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    values = _dequantize_4bit_compute(
        codes.flatten(), state.absmax, state.code, state.blocksize, torch.Size((count,)), state.dtype
    )
    return values.flatten()


@pytest.mark.parametrize("codebook", [NF4, FP4], ids=lambda codebook: codebook.name)
def test_codes_equal_bitsandbytes_at_ties(codebook):
    """Small integers fall on FP4's midpoints; in a last, short block bitsandbytes divides and does not multiply."""
    for count in (64, 91, 200):
        weight = torch.randint(-24, 25, (count, 65)).float()
        codes, _ = bitsandbytes.quantize_4bit(weight, quant_type=codebook.name.lower())
        assert torch.equal(quantize(weight, codebook).codes, codes.flatten())


def from_bitsandbytes(codes, state, codebook):
    second = state.state2
    return QuantizedTensor(
        codes.flatten(),
        state.absmax,
        second.absmax if second else None,
        state.offset,
        torch.Size(state.shape),
        state.dtype,
        codebook,
        state.blocksize,
    )


@pytest.mark.parametrize("codebook", [NF4, FP4], ids=lambda codebook: codebook.name)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_their_double_quantized_state_dequantizes_to_the_same_bits(codebook, dtype):
    weight = gaussian(192, 1024, dtype=dtype)
    codes, state = bitsandbytes.quantize_4bit(
        weight, quant_type=codebook.name.lower(), compress_statistics=True, blocksize=64
    )
    assert torch.equal(
        dequantize(from_bitsandbytes(codes, state, codebook)), bitsandbytes.dequantize_4bit(codes, state)
    )


def test_double_quantized_scales_are_never_farther_than_theirs():
    """bitsandbytes' CPU thresholds are a little off the midpoints: a few in a thousand of its codes are not nearest."""
    weight = gaussian(2048, 2048)
    codes, state = bitsandbytes.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    ours = quantize(weight, double=True)
    assert torch.equal(ours.codes, codes.flatten())
    assert torch.equal(ours.second_absmax, state.state2.absmax)
    assert torch.equal(ours.offset, state.offset)
    differ = ours.absmax != state.absmax
    assert differ.float().mean() < 0.005
    levels = torch.tensor(DYNAMIC8.values, dtype=torch.float64)
    target = (quantize(weight).absmax - ours.offset).double() / ours.second_absmax.repeat_interleave(256)
    our_error = (levels[ours.absmax.long()] - target).abs()
    their_error = (levels[state.absmax.long()] - target).abs()
    assert (our_error <= their_error + 1e-7).all()


# storage


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1001])
def test_packing_leaves_no_gaps(bits, count):
    codes = torch.randint(0, 2**bits, (count,)).to(torch.uint8)
    packed = pack(codes, bits)
    assert len(packed) == math.ceil(count * bits / 8)
    assert torch.equal(unpack(packed, bits, count), codes)
    stream = "".join(f"{code:0{bits}b}" for code in codes.tolist())
    assert "".join(f"{byte:08b}" for byte in packed.tolist()) == stream.ljust(8 * len(packed), "0")


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("codebook", ALL_CODEBOOKS, ids=lambda codebook: codebook.name)
def test_dequantize_is_the_definition(codebook, double):
    if double and 0.0 not in codebook.values:
        pytest.skip("refused, see below")
    for shape, block_size in [((5, 77), 64), ((130, 100), 3), ((9,), 16), ((), 64), ((3, 4, 5), 7), ((0, 4), 64)]:
        quantized = quantize(gaussian(*shape), codebook, block_size, double)
        assert torch.equal(dequantize(quantized), plain_dequantize(quantized))


def test_dequantize_across_chunks(monkeypatch):
    weight = gaussian(70, 130)
    whole = {codebook.name: quantize(weight, codebook, 10) for codebook in ALL_CODEBOOKS}
    monkeypatch.setattr("peft_lessons.quantization.cpu.CHUNK", 100)
    for codebook in ALL_CODEBOOKS:
        chunked = quantize(weight, codebook, 10)
        assert torch.equal(chunked.codes, whole[codebook.name].codes)
        assert torch.equal(dequantize(chunked), plain_dequantize(chunked))


HUGE_PAGES = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="pages of 2 MiB are asked for on Linux only")


@HUGE_PAGES
@pytest.mark.parametrize("dtype", [torch.float64, *FLOATS], ids=str)
def test_large_results_live_in_memory_of_their_own(monkeypatch, dtype):
    monkeypatch.setattr("peft_lessons.quantization.cpu.LARGE", 1)
    for shape, block_size in [((33, 100), 7), ((64, 128), 64), ((), 64), ((0, 4), 64)]:
        quantized = quantize(gaussian(*shape, dtype=dtype), block_size=block_size)
        weight = dequantize(quantized)
        expected = plain_dequantize(quantized)
        assert torch.equal(weight, expected)
        assert weight.untyped_storage().resizable() == (weight.numel() == 0)  # torch's allocator gives resizable ones
        for twin in (copy.deepcopy(weight), pickle.loads(pickle.dumps(weight)), nn.Parameter(weight).detach()):
            assert torch.equal(twin, expected)
        del quantized
        assert torch.equal(weight.add_(1), expected + 1)


@HUGE_PAGES
def test_systems_without_pages_of_2_mib(monkeypatch):
    monkeypatch.setattr("peft_lessons.quantization.cpu.LARGE", 1)
    quantized = quantize(gaussian(64, 128))
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 12345)  # the kernel refuses advice that it does not know
    assert torch.equal(dequantize(quantized), plain_dequantize(quantized))
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    assert torch.equal(dequantize(quantized), plain_dequantize(quantized))
    assert dequantize(quantized).untyped_storage().resizable()


def test_bits_per_weight():
    """Block 64: 4 + 32/64, or 4 + 8/64 + 32/(64·256) with double quantization (arXiv:2305.14314 §3)."""
    weight = gaussian(1024, 1024)
    assert quantize(weight).bits_per_weight == 4.5
    assert quantize(weight, double=True).bits_per_weight == pytest.approx(4.126953125, abs=1e-4)
    assert quantize(weight, normal_codebook(3)).bits_per_weight == 3.5
    stored = quantize(weight, double=True)
    assert stored.nbytes == 1024 * 1024 // 2 + 16384 + 4 * 64 + 4


@pytest.mark.parametrize("dtype", [torch.float64, *FLOATS], ids=str)
def test_dtype_is_kept_or_chosen(dtype):
    weight = gaussian(8, 100, dtype=dtype)
    quantized = quantize(weight)
    assert dequantize(quantized).dtype == dtype
    assert torch.equal(dequantize(quantized, torch.bfloat16), dequantize(quantized, torch.float32).bfloat16())


def test_non_contiguous_weights():
    weight = gaussian(96, 40)
    assert torch.equal(dequantize(quantize(weight.T)), dequantize(quantize(weight.T.contiguous())))


# values


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.one_of(st.just(0.0), MAGNITUDES, MAGNITUDES.map(lambda value: -value)), min_size=1, max_size=70),
    codebook=st.sampled_from([NF4, *ALL_CODEBOOKS]),
    block_size=st.integers(1, 80),
)
def test_every_value_goes_to_a_nearest_level(values, codebook, block_size):
    weight = torch.tensor(values)
    rounded = dequantize(quantize(weight, codebook, block_size)).double()
    for block, result in zip(weight.double().split(block_size), rounded.split(block_size), strict=True):
        absmax = block.abs().max()
        nearest = (block[:, None] - absmax * torch.tensor(codebook.levels, dtype=torch.float64)).abs().amin(dim=1)
        assert ((result - block).abs() <= nearest + 3e-7 * absmax).all()


def test_halfway_the_lower_level_wins():
    assert nearest_codes(torch.tensor([-0.5, 0.5]), integer_codebook(2)).tolist() == [0, 1]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("codebook", [NF4, FP4, integer_codebook(3), integer_codebook(1)], ids=lambda c: c.name)
def test_zero_blocks_come_back_as_zeros(codebook, double):
    if double and 0.0 not in codebook.values:
        with pytest.raises(ValueError, match="INT1 has no zero level"):
            quantize(torch.zeros(4), codebook, double=True)
        return
    weight = gaussian(4, 64)
    weight[1] = 0
    assert (dequantize(quantize(weight, codebook, double=double))[1] == 0).all()
    assert (dequantize(quantize(torch.zeros(3, 50), codebook, double=double)) == 0).all()


@pytest.mark.parametrize("double", [False, True])
def test_empty_tensors(double):
    quantized = quantize(torch.empty(0, 64), double=double)
    assert dequantize(quantized).shape == (0, 64)
    assert all(tensor.isfinite().all() for tensor in quantized.tensors if tensor is not None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(3, 64), (3, 50)])
def test_non_finite_values_are_named(bad, shape):
    weight = gaussian(*shape)
    weight[1, 7] = weight[2, 3] = weight[2, -1] = bad
    with pytest.raises(ValueError, match=rf"3 of {3 * shape[1]} are NaN or infinite.*first at index \(1, 7\)"):
        quantize(weight)


def test_float64_beyond_float32_is_refused():
    with pytest.raises(ValueError, match=r"1 of 2 are NaN or infinite in torch.float32, the first at index \(1,\)"):
        quantize(torch.tensor([1.0, 1e300], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_only_floating_tensors(dtype):
    with pytest.raises(TypeError, match=str(dtype)):
        quantize(torch.zeros(4, dtype=dtype))
    with pytest.raises(TypeError, match="only floating tensors can be quantized; given Linear"):
        quantize(nn.Linear(4, 4))


@pytest.mark.parametrize("block_size", [0, -64, 6.4, True])
def test_block_size_is_checked(block_size):
    with pytest.raises(ValueError, match="at least 1"):
        quantize(torch.zeros(4), block_size=block_size)


# what it costs in accuracy


def squared_error(codebook, block_size=64, count=2**20):
    weight = torch.randn(count, generator=torch.Generator().manual_seed(1))
    return (dequantize(quantize(weight, codebook, block_size)) - weight).square().mean().item()


def test_error_on_a_gaussian():
    """Measured, not from a paper; bitsandbytes has the same RMS error: 9.246 % for NF4, 12.216 % for FP4."""
    nf4 = squared_error(NF4)
    assert nf4 == pytest.approx(0.00845, abs=0.00004)
    assert squared_error(integer_codebook(4)) / nf4 == pytest.approx(1.37, abs=0.02)
    assert squared_error(FP4) / nf4 == pytest.approx(1.76, abs=0.02)
    assert squared_error(float_codebook(4)) / nf4 == pytest.approx(1.32, abs=0.02)
    evenly = Codebook("16 even steps", tuple(torch.linspace(-1, 1, 16).tolist()))
    assert squared_error(evenly) / nf4 == pytest.approx(1.19, abs=0.02)


@pytest.mark.parametrize(
    ("second_level", "scale_error", "added"),
    [(DYNAMIC8, 0.00201, 0.0005), (integer_codebook(8), 0.00136, 0.0002), (float_codebook(8), 0.00407, 0.0019)],
    ids=["bitsandbytes' dynamic map", "even steps", "the paper's 8-bit float"],
)
def test_double_quantization_costs_next_to_nothing(second_level, scale_error, added):
    """RMS error of the scales over their RMS, and what it adds to the squared error of the weights, as a fraction."""
    weight = gaussian(2048, 2048)
    plain = quantize(weight)
    offset = plain.absmax.mean()
    scales = dequantize(quantize(plain.absmax - offset, second_level, 256)) + offset
    double = dequantize(dataclasses.replace(plain, absmax=scales))
    if second_level is DYNAMIC8:
        assert torch.equal(double, dequantize(quantize(weight, double=True)))
    assert ((scales - plain.absmax).norm() / plain.absmax.norm()).item() == pytest.approx(scale_error, abs=0.00004)
    ratio = (double - weight).square().mean() / (dequantize(plain) - weight).square().mean()
    assert ratio.item() - 1 == pytest.approx(added, abs=0.00015)


def test_larger_blocks_store_less_and_err_more():
    sizes = [64, 256, 1024, 4096]
    errors = [10 * math.log10(squared_error(NF4, size, 2**21)) for size in sizes]
    assert errors == sorted(errors)
    assert -errors[0] == pytest.approx(20.73, abs=0.03) and -errors[-1] == pytest.approx(19.17, abs=0.03)
    bits = [quantize(torch.zeros(2**14), block_size=size).bits_per_weight for size in sizes]
    assert bits == [4.5, 4.125, 4.03125, 4.0078125]


def test_six_decibels_a_bit():
    """2^b levels, each in the middle of an equal bin, on uniform values: the error is uniform too, 6.02 dB a bit."""
    signal = torch.rand(2**20, generator=torch.Generator().manual_seed(2)) * 2 - 1
    signal[0] = 1.0  # so that the absmax of the one block is the range
    ratios = []
    for bits in range(1, 9):
        middle = Codebook(f"midrise {bits}", tuple((2 * i + 1) / 2**bits - 1 for i in range(2**bits)))
        noise = dequantize(quantize(signal, middle, block_size=len(signal))) - signal
        ratios.append(20 * math.log10(signal.norm() / noise.norm()))
    steps = [after - before for before, after in itertools.pairwise(ratios)]
    assert steps == pytest.approx([20 * math.log10(2)] * 7, abs=0.03)


# the layer


def linear(out_features=48, in_features=100, bias=True, dtype=torch.float32):
    return nn.Linear(in_features, out_features, bias=bias).to(dtype)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_layer_is_a_linear_layer_with_the_dequantized_weight(dtype, bias, double):
    base = linear(bias=bias, dtype=dtype)
    layer = QuantizedLinear.from_linear(base, double=double)
    assert (layer.in_features, layer.out_features) == (100, 48)
    assert layer.weight.dtype == dtype and torch.equal(layer.weight, dequantize(quantize(base.weight, double=double)))
    assert (layer.bias is None) != bias
    for shape in [(100,), (3, 100), (2, 5, 100), (0, 100)]:
        x = gaussian(*shape, dtype=dtype).requires_grad_()
        reference = x.detach().clone().requires_grad_()
        y = layer(x)
        expected = F.linear(reference, layer.weight, layer.bias)
        assert torch.equal(y, expected)
        gradient = torch.randn_like(y)
        y.backward(gradient)
        expected.backward(gradient)
        torch.testing.assert_close(x.grad, reference.grad)
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_layer_keeps_the_mode(training):
    assert QuantizedLinear.from_linear(linear().train(training)).training is training


def test_dequantized_is_rounded_once():
    layer = QuantizedLinear.from_linear(linear(dtype=torch.bfloat16))
    assert torch.equal(layer.dequantized(torch.float32), dequantize(layer.quantized, torch.float32))
    assert torch.equal(layer.dequantized(torch.float32).bfloat16(), layer.weight)
    assert not torch.equal(layer.dequantized(torch.float32), layer.weight.float())


def test_gradients_in_float64():
    layer = QuantizedLinear.from_linear(linear(6, 10).double())
    layer.bias.requires_grad_()
    x = torch.randn(2, 3, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, bias: layer(x), (x, layer.bias))
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), (x,))


def test_bias_can_be_trained():
    layer = QuantizedLinear.from_linear(linear())
    layer.bias.requires_grad_()
    x = gaussian(4, 5, 100)
    layer(x).square().sum().backward()
    bias = layer.bias.detach().clone().requires_grad_()
    F.linear(x, layer.weight, bias).square().sum().backward()
    torch.testing.assert_close(layer.bias.grad, bias.grad)


@pytest.mark.parametrize("double", [False, True])
def test_backward_keeps_the_codes_and_nothing_else(double):
    layer = QuantizedLinear.from_linear(linear(256, 512), double=double)
    kept = {}

    def pack_hook(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = gaussian(8, 512).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        y = layer(x)
    assert set(kept) == {buffer.untyped_storage().data_ptr() for buffer in layer.buffers()}
    assert sum(kept.values()) < 256 * 512 * 4.6 / 8
    y.sum().backward()
    assert x.grad is not None


TILED = [(NF4, 64), (FP4, 32), (normal_codebook(3), 16), (normal_codebook(8), 5)]  # blocks of whole bytes


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 4 KiB: a weight of 40 × 320 float32 numbers is 14 tiles of 3 rows, the last one shorter."""
    monkeypatch.setattr("peft_lessons.quantization.linear.TILE", 2**12)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("codebook", "block_size"), TILED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_tiles_are_the_weight_in_parts(small_tiles, dtype, codebook, block_size, double):
    quantized = quantize(gaussian(40, 320), codebook, block_size, double)
    whole = dequantize(quantized, dtype)
    for dim in (0, 1):
        line = quantized.shape[1 - dim] * dtype.itemsize * (block_size if dim else 1)
        end, parts = 0, 0
        for part, values in tiles(quantized, dim, dtype):
            assert part.start == end and values.nbytes <= max(2**12, line)
            assert torch.equal(values, whole[part] if dim == 0 else whole[:, part])
            end, parts = part.stop, parts + 1
        assert end == quantized.shape[dim] and parts >= 40 * 320 * dtype.itemsize / max(2**12, line)


@pytest.mark.parametrize(("shape", "block_size"), [((40, 100), 64), ((40, 320), 7), ((40, 321), 1)])
def test_blocks_across_rows_or_bytes_make_one_tile(small_tiles, shape, block_size):
    quantized = quantize(gaussian(*shape), block_size=block_size)
    for dim in (0, 1):
        ((part, values),) = tiles(quantized, dim, torch.float32)
        assert part == slice(None) and torch.equal(values, dequantize(quantized))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("codebook", "block_size"), TILED, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2**-8)], ids=str
)
def test_tiled_products_are_those_of_the_whole_weight(
    small_tiles, dtype, tolerance, codebook, block_size, bias, double
):
    """Up to the order of sums. bfloat16: to one rounding, since tiles of Ŵ cut no sum in parts."""
    layer = QuantizedLinear.from_linear(linear(40, 320, bias, dtype), codebook, block_size, double)
    for shape in [(320,), (3, 320), (2, 5, 320), (0, 320)]:
        x = gaussian(*shape, dtype=dtype).requires_grad_()
        exact_x = x.detach().double().requires_grad_()
        y = layer(x)
        exact = F.linear(exact_x, layer.weight.double(), None if layer.bias is None else layer.bias.double())
        gradient = torch.randn_like(y)
        y.backward(gradient)
        exact.backward(gradient.double())
        for ours, expected in [(y, exact), (x.grad, exact_x.grad)]:
            assert ours.dtype == dtype and ours.shape == expected.shape
            if expected.numel():
                assert (ours.double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_tiled_gradients_in_float64(small_tiles, monkeypatch):
    monkeypatch.setattr("peft_lessons.quantization.linear.TILE", 2**7)
    layer = QuantizedLinear.from_linear(linear(6, 12).double(), block_size=4)
    layer.bias.requires_grad_()
    x = torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, bias: layer(x), (x, layer.bias))
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), (x,))


class Allocations(TorchDispatchMode):
    """Bytes of the largest storage that an operation returns, those of `known` tensors aside."""

    def __init__(self, known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_whole_weight_is_never_in_memory(monkeypatch, dtype, double):
    tile = 2**17
    monkeypatch.setattr("peft_lessons.quantization.linear.TILE", tile)
    layer = QuantizedLinear.from_linear(linear(512, 2048, dtype=dtype), double=double)
    x = gaussian(8, 2048, dtype=dtype).requires_grad_()
    with Allocations([x, *layer.buffers()]) as allocations:
        layer(x).sum().backward()
    assert tile <= allocations.largest <= tile * 4 / dtype.itemsize  # one tile in float32, and in `dtype`
    assert 512 * 2048 * dtype.itemsize >= 16 * tile
    with Allocations(layer.buffers()) as allocations:
        layer.weight.sum()
    assert allocations.largest >= 16 * tile  # the count does see a whole weight


def test_second_derivatives_keep_no_weight(small_tiles):
    layer = QuantizedLinear.from_linear(linear(40, 320))
    x = gaussian(3, 320).requires_grad_()
    y = layer(x).square().sum()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        torch.autograd.grad(y, x, create_graph=True)
    assert max(tensor.nbytes for tensor in kept) <= layer.codes.nbytes


def test_threads_do_not_share_tiles(small_tiles):
    layer = QuantizedLinear.from_linear(linear(40, 320))
    inputs = gaussian(4, 3, 320)
    results = [[] for _ in inputs]

    def work(x, result):
        result += [layer(x) for _ in range(30)]

    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, result in zip(inputs, results, strict=True):
        assert len(result) == 30 and all(torch.equal(y, layer(x)) for y in result)


def test_changing_the_codes_between_forward_and_backward_is_an_error():
    layer = QuantizedLinear.from_linear(linear())
    y = layer(gaussian(3, 100).requires_grad_())
    layer.codes.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_compute_dtype_is_that_of_x():
    layer = QuantizedLinear.from_linear(linear())
    x = gaussian(3, 100, dtype=torch.bfloat16)
    assert torch.equal(layer(x), F.linear(x, layer.weight.bfloat16(), layer.bias.bfloat16()))


def test_autocast():
    base = linear()
    layer = QuantizedLinear.from_linear(base)
    plain = nn.Linear(100, 48)
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = gaussian(5, 100).requires_grad_()
    reference = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = layer(x), plain(reference)
    assert y.dtype == expected.dtype == torch.bfloat16 and torch.equal(y, expected)
    y.float().square().sum().backward()
    expected.float().square().sum().backward()
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, reference.grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x.double()).dtype == torch.float64


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("cast", [nn.Module.bfloat16, nn.Module.half, nn.Module.double, nn.Module.float])
@pytest.mark.parametrize("start", [torch.float32, torch.bfloat16], ids=str)
def test_casts_change_the_weight_and_not_the_scales(cast, double, start):
    layer = QuantizedLinear.from_linear(linear(dtype=start), double=double)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    exact = dequantize(layer.quantized, torch.float32)
    cast(layer)
    for name, buffer in layer.named_buffers():
        assert buffer.dtype == before[name].dtype and torch.equal(buffer, before[name])
    assert layer.weight.dtype == layer.bias.dtype == layer.dtype
    assert torch.equal(layer.weight, exact.to(layer.dtype))
    expected = {"bfloat16": torch.bfloat16, "half": torch.float16, "double": torch.float64, "float": torch.float32}
    assert layer.dtype == expected[cast.__name__]


def test_moving_keeps_the_dtype():
    model = nn.Sequential(QuantizedLinear.from_linear(linear(dtype=torch.bfloat16), double=True))
    model.to("cpu")
    assert model[0].weight.dtype == torch.bfloat16
    meta = copy.deepcopy(model).to("meta")
    assert {buffer.device.type for buffer in meta.buffers()} == {"meta"}
    assert meta.to_empty(device="cpu")[0].absmax.dtype == torch.uint8
    assert meta[0].second_absmax.dtype == torch.float32


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("codebook", [NF4, FP4, normal_codebook(3)], ids=lambda codebook: codebook.name)
def test_state_dict_round_trip(codebook, double):
    layer = QuantizedLinear.from_linear(linear(), codebook, double=double)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = QuantizedLinear.from_linear(linear(), codebook, double=double)
    assert not torch.equal(fresh.weight, layer.weight)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh.weight, layer.weight) and torch.equal(fresh.bias, layer.bias)


def test_state_dict_holds_only_tensors():
    state = nn.Sequential(QuantizedLinear.from_linear(linear(), double=True)).state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize(
    "options", [{"codebook": FP4}, {"block_size": 65}, {"double": True}, {"codebook": integer_codebook(8)}], ids=str
)
def test_state_dict_of_another_layout_is_refused(options):
    layer = QuantizedLinear.from_linear(linear(2, 64))
    other = QuantizedLinear.from_linear(linear(2, 64), **options)
    with pytest.raises((ValueError, RuntimeError), match=r"this layer reads|Missing key|size mismatch"):
        other.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_whole_and_apart(copied):
    layer = QuantizedLinear.from_linear(linear(), double=True)
    twin = copied(layer)
    assert torch.equal(twin.weight, layer.weight) and torch.equal(twin.bias, layer.bias)
    before = layer.weight
    twin.codes.zero_()
    assert torch.equal(layer.weight, before)


def test_module_holds_little():
    layer = QuantizedLinear.from_linear(linear(1024, 1024, bias=False), double=True)
    held = sum(buffer.untyped_storage().nbytes() for buffer in layer.buffers())
    assert 8 * held / 1024**2 <= 4.2
    assert list(layer.parameters()) == []
    assert len(pickle.dumps(layer)) * 8 / 1024**2 <= 4.2


def test_base_is_left_alone():
    base = linear()
    before = copy.deepcopy(base.state_dict())
    layer = QuantizedLinear.from_linear(base)
    layer.bias.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert base.weight.requires_grad


def test_layer_repr_and_shape_error():
    layer = QuantizedLinear.from_linear(linear(bias=False), FP4, 32, double=True)
    assert repr(layer) == (
        "QuantizedLinear(in_features=100, out_features=48, bias=False, codebook=FP4, block_size=32, double=True)"
    )
    with pytest.raises(ValueError, match=r"given shape \(5,\)"):
        QuantizedLinear(quantize(torch.ones(5)))


def test_inference_mode_does_not_poison_training():
    codebook = Codebook("first seen in inference mode", tuple(torch.linspace(-1, 1, 16).tolist()))
    layer = QuantizedLinear.from_linear(linear(), codebook)
    with torch.inference_mode():
        layer(gaussian(2, 100))
    x = gaussian(2, 100).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


# a whole model


class Block(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width, bias=False)

    def forward(self, x):
        return x + self.v_proj(self.q_proj(x).relu())


class Model(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(32, 50, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def kinds(model, kind):
    return [name for name, module in model.named_modules() if type(module) is kind]


@pytest.mark.parametrize("tied", [False, True])
def test_model_is_quantized_but_for_its_head(tied):
    model = Model(tied)
    plain = copy.deepcopy(model)
    assert quantize_model(model, double=True) is model
    assert kinds(model, nn.Linear) == ["head"]
    assert len(kinds(model, QuantizedLinear)) == 4
    assert (model.head.weight is model.embed.weight) == tied
    ids = torch.arange(20)[None]
    assert 0 < (model(ids) - plain(ids)).norm() / plain(ids).norm() < 0.1


def test_targets_are_endings_of_names():
    model = quantize_model(Model(False), targets=("v_proj", "blocks.0.q_proj", "head"))
    assert kinds(model, nn.Linear) == ["blocks.1.q_proj"]


def test_unknown_targets_name_what_there_is():
    with pytest.raises(ValueError, match=r"no linear layer is named 'q_prj'; this model has head, q_proj, v_proj"):
        quantize_model(Model(False), targets=("v_proj", "q_prj"))
    with pytest.raises(ValueError, match="'proj'"):
        quantize_model(Model(False), targets=("proj",))


def test_nothing_is_replaced_when_a_target_is_wrong():
    model = Model(False)
    with pytest.raises(ValueError):
        quantize_model(model, targets=("v_proj", "q_prj"))
    assert kinds(model, QuantizedLinear) == []


def test_tied_head_cannot_be_quantized_alone():
    with pytest.raises(ValueError, match="head shares its weight"):
        quantize_model(Model(True), targets=("head",))


def test_model_without_linear_layers():
    with pytest.raises(ValueError, match=r"this model has no nn\.Linear"):
        quantize_model(nn.Sequential(nn.ReLU()))


def test_a_module_in_two_places_stays_one():
    shared = nn.Linear(8, 8)
    model = quantize_model(nn.Sequential(shared, nn.ReLU(), shared))
    assert model[0] is model[2] and isinstance(model[0], QuantizedLinear)


def test_a_block_may_be_larger_than_the_tensor():
    """Nothing is asked for beyond the tensor: a block of 2^64 values is that of all values, and a short one."""
    for weight in (gaussian(5, 77), gaussian(1), gaussian(3, 8), torch.tensor(-2.0), torch.empty(0, 64)):
        for codebook in (NF4, normal_codebook(3), normal_codebook(8)):
            expected = quantize(weight, codebook, weight.numel() + 1)
            for block_size in (2**40, 2**64):
                quantized = quantize(weight, codebook, block_size)
                assert torch.equal(quantized.codes, expected.codes) and torch.equal(quantized.absmax, expected.absmax)
                assert torch.equal(dequantize(quantized), plain_dequantize(expected))
    layer = QuantizedLinear.from_linear(linear(), block_size=2**64)
    x = gaussian(3, 100)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_no_values_no_codes():
    with pytest.raises(ValueError, match="meta device holds no values to quantize: load the weights first"):
        QuantizedLinear.from_linear(nn.Linear(8, 8, device="meta"))


@pytest.mark.parametrize("codebook", [NF4, normal_codebook(3)], ids=lambda codebook: codebook.name)
def test_a_layer_on_the_meta_device_says_shapes(codebook):
    layer = QuantizedLinear.from_linear(linear(), codebook, double=True).to("meta")
    assert layer.weight.shape == (48, 100) and layer.weight.is_meta
    for rows in (2, 300):
        y = layer(torch.empty(rows, 100, device="meta"))
        assert y.shape == (rows, 48) and y.is_meta


# which layers of a model


class GPT(nn.Module):
    """As in LLMs-from-scratch: blocks in a Sequential, learned positions as many as the model is wide."""

    def __init__(self, width=32, blocks=2):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(50, width), nn.Embedding(width, width)
        self.trf_blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.out_head = nn.Linear(width, 50, bias=False)


def test_blocks_by_name():
    model = nn.ModuleDict({"blocks": nn.ModuleDict({"a": Block(), "b": Block()}), "classifier": nn.Linear(32, 2)})
    with pytest.warns(UserWarning, match=r"^not quantized: classifier \(outside of the blocks\)\. With targets"):
        quantize_model(model)
    assert kinds(model, nn.Linear) == ["classifier"]


@pytest.mark.parametrize("blocks", [1, 2])
def test_attention_of_the_shape_of_the_positions_is_quantized(blocks):
    with pytest.warns(UserWarning, match=r"^not quantized: out_head \(outside of the blocks\)\. With targets"):
        model = quantize_model(GPT(blocks=blocks))
    assert kinds(model, nn.Linear) == ["out_head"]
    assert len(kinds(model, QuantizedLinear)) == 2 * blocks


def transformers_models():
    import transformers

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = {**small, "vocab_size": 40, "max_position_embeddings": 32}
    neo = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 40, "max_position_embeddings": 32}
    neo |= {"attention_types": [[["global", "local"], 1]]}
    llama = {**text, "num_key_value_heads": 2}
    vit = {**small, "image_size": 8, "patch_size": 4}
    t5 = {"vocab_size": 40, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    gpt2 = {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
    cases = [  # class, settings, quantized layers, what is named
        ("GPTNeo", "ForCausalLM", neo, 12, []),
        ("GPT2", "LMHeadModel", {**gpt2, "bos_token_id": 0, "eos_token_id": 0}, 8, []),
        ("Bert", "ForSequenceClassification", text, 12, ["bert.pooler.dense", "classifier"]),
        ("Bert", "ForQuestionAnswering", text, 12, ["qa_outputs"]),
        ("Llama", "ForSequenceClassification", llama, 14, ["score"]),
        ("Llama", "ForCausalLM", llama, 14, ["lm_head"]),
        ("ViT", "ForImageClassification", vit, 12, ["classifier"]),
        ("T5", "ForConditionalGeneration", t5, 32, []),
    ]
    for name, task, sizes, count, left in cases:
        make = getattr(transformers, f"{name}{task}"), getattr(transformers, f"{name}Config")(**sizes)
        yield pytest.param(*make, count, left, id=f"{name}{task}")


@pytest.mark.parametrize(("kind", "config", "count", "left"), transformers_models())
def test_blocks_are_quantized_and_new_heads_named(kind, config, count, left, recwarn):
    torch.manual_seed(0)
    model = quantize_model(kind(config))
    assert len(kinds(model, QuantizedLinear)) == count
    said = [str(warning.message) for warning in recwarn if "not quantized" in str(warning.message)]
    named = [name for name in left if f"{name} (outside of the blocks)" in "".join(said)]
    assert named == left and len(said) == bool(left)


@pytest.mark.parametrize("tied", [True, False])
def test_the_courses_decoder_keeps_its_head(tied, recwarn):
    from contract import DECODER

    from peft_lessons.models import Decoder

    model = quantize_model(Decoder(dataclasses.replace(DECODER, tie_word_embeddings=tied)))
    assert kinds(model, nn.Linear) == ["lm_head"] and len(kinds(model, QuantizedLinear)) == 14
    assert [str(warning.message)[:22] for warning in recwarn] == ["not quantized: lm_head"] * (not tied)


def test_what_is_left_is_named_with_the_reason():
    class Own(nn.Linear):
        pass

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.randn(2, 8, 8))
            self.router = nn.Linear(8, 2)

    blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), Own(8, 8)), Experts(), nn.MultiheadAttention(8, 2)])
    tied = nn.Linear(8, 8)
    tied.weight = blocks[0][0].weight
    with pytest.warns(UserWarning) as warnings:
        model = quantize_model(nn.ModuleDict({"blocks": blocks, "twin": tied}))
    assert kinds(model, QuantizedLinear) == ["blocks.1.router"]
    message = str(warnings[0].message)
    for part in (
        "blocks.0.0 (shares its weight)",
        "blocks.0.1 (a Own)",
        "blocks.1.up (not of a linear layer)",
        "blocks.2.in_proj_weight (not of a linear layer)",
        "blocks.2.out_proj (a NonDynamicallyQuantizableLinear)",
        "twin (shares its weight)",
    ):
        assert part in message


def test_a_model_without_blocks():
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 50))
    with pytest.warns(UserWarning, match=r"not quantized: 3 \(of the shape of an embedding\)"):
        quantize_model(model)
    assert kinds(model, QuantizedLinear) == ["1"]


@pytest.mark.parametrize("targets", [None, ("first", "second"), ("base_layer",)])
def test_a_base_is_quantized_before_adapters_start_from_it(targets):
    from contract import METHODS, network

    from peft_lessons import inject

    for method in ("lora", "dora", "pissa"):
        model = inject(network(method, "dense"), METHODS[method])
        before = dict(model.named_modules())
        with pytest.raises(ValueError, match=r"has adapters \(first\.base_layer …\): quantize the model first, then"):
            quantize_model(model, targets)
        assert dict(model.named_modules()) == before


@pytest.mark.parametrize("targets", [None, ("q_proj", "v_proj")])
def test_a_weight_that_cannot_be_quantized_leaves_all_as_they_were(targets):
    model = Model(False)
    model.blocks[1].v_proj.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"blocks\.1\.v_proj: only finite values can be quantized"):
        quantize_model(model, targets)
    assert kinds(model, QuantizedLinear) == []
