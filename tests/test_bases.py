"""Adapters on every kind of linear layer: what they read, and that outputs, gradients and merges are those of peft."""

import copy
import logging
import warnings
from dataclasses import replace

import bitsandbytes as bnb
import peft
import pytest
import torch
from contract import METHODS, perturb
from parity import named_gradients, perturb_either, theirs
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from peft_lessons import (
    BitFitConfig,
    DoRAConfig,
    LoftQConfig,
    LoRAConfig,
    PiSSAConfig,
    QuantizedLinear,
    SerialAdapterConfig,
    adapters_disabled,
    full_fine_tuning,
    inject,
    load_adapter,
    load_adapters,
    merge,
    quantize_model,
    save_adapter,
    trainable_parameters,
    using,
)
from peft_lessons.adapters import named_adapters
from peft_lessons.bases import read_weight
from peft_lessons.checkpoints.peft_names import layout_of
from peft_lessons.models.smollm2_4bit import Q4Linear

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

SIZES = {
    "q_proj": (64, 128),
    "v_proj": (128, 192),
}  # blocks do not straddle rows: there bitsandbytes reads wrong scales


class Network(nn.Module):
    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.q_proj, self.v_proj = layers["q_proj"], layers["v_proj"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v_proj(torch.tanh(self.q_proj(x)))


def conv1d(linear: nn.Linear) -> Conv1D:
    conv = Conv1D(linear.out_features, linear.in_features)
    conv.load_state_dict({"weight": linear.weight.T, "bias": torch.randn(linear.out_features)})
    return conv


def four_bit(linear: nn.Linear, quant_type: str = "nf4", double: bool = False) -> bnb.nn.Linear4bit:
    layer = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, linear.bias is not None,
        compute_dtype=torch.float32, compress_statistics=double, quant_type=quant_type,
    )  # fmt: skip
    layer.load_state_dict(copy.deepcopy(linear.state_dict()))
    # Where the processor has AVX512-BF16, a frozen layer in eval mode would rearrange its codes and compute in bf16,
    # and one that still trains its bias would not: no two of them would be equal.
    layer.support_avx512bf16_for_cpu = False
    return layer.to("cpu")


def eight_bit(linear: nn.Linear) -> bnb.nn.Linear8bitLt:
    bias = linear.bias is not None
    layer = bnb.nn.Linear8bitLt(linear.in_features, linear.out_features, bias, has_fp16_weights=False)
    layer.load_state_dict(copy.deepcopy(linear.state_dict()))
    return layer.to("cpu")


KINDS = {
    "Conv1D": conv1d,
    "NF4": four_bit,
    "NF4 double": lambda linear: four_bit(linear, double=True),
    "FP4": lambda linear: four_bit(linear, "fp4"),
    "int8": eight_bit,
}


def network(kind: str) -> Network:
    torch.manual_seed(0)
    return Network({name: KINDS[kind](nn.Linear(*size, bias=name == "q_proj")) for name, size in SIZES.items()})


PARITY = [
    *[("Conv1D", method) for method in ("lora", "rslora", "pissa", "dora", "adalora", "vera", "ia3")],
    *[("NF4 double", method) for method in ("lora", "dora", "adalora", "vera", "oft-neumann", "ia3")],
    *[("FP4", method) for method in ("lora", "dora")],
    *[("int8", method) for method in ("lora", "dora", "ia3")],
]


def pair(kind: str, method: str, folder) -> tuple[nn.Module, peft.PeftModel]:
    config = theirs(method, tuple(SIZES))
    if kind == "Conv1D":
        config.fan_in_fan_out = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = peft.get_peft_model(network(kind), config, autocast_adapter_dtype=False)
    perturb_either(reference)
    reference.save_pretrained(folder)
    return load_adapter(network(kind), folder), reference


def close(actual: torch.Tensor, expected: torch.Tensor, bound: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound * expected.abs().max().item())


@pytest.mark.parametrize(("kind", "method"), PARITY)
def test_outputs_and_gradients_are_those_of_peft(kind: str, method: str, tmp_path) -> None:
    mine, reference = pair(kind, method, tmp_path)
    x, results = torch.randn(40, 64), []
    for model in (mine.train(), reference.train()):
        inputs = x.clone().requires_grad_()
        y = model(inputs)
        y.square().mean().backward()
        results.append((y, inputs.grad))
    for actual, expected in zip(*results, strict=True):
        close(actual, expected)
    expected_gradients, checked = named_gradients(reference), 0
    for module, layer in named_adapters(mine):
        layout = layout_of(layer.config)
        for name, parameter in layer.named_parameters():
            if parameter.requires_grad:
                close(layout.encode(layer, parameter.grad), expected_gradients[layout.name(module, name)])
                checked += 1
    assert checked == len(expected_gradients)


@pytest.mark.parametrize("method", [method for kind, method in PARITY if kind == "Conv1D"])
def test_a_conv1d_is_merged_into_a_conv1d_as_in_peft(method: str, tmp_path) -> None:
    mine, reference = pair("Conv1D", method, tmp_path)
    merged, expected = merge(mine), reference.merge_and_unload()
    assert type(merged.q_proj) is type(merged.v_proj) is Conv1D
    assert merged.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        close(merged.state_dict()[name], tensor, 2e-6)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 40}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()


def test_gpt2_with_an_adapter_of_peft(tmp_path) -> None:
    """All of its matrices: linear layers that lie transposed, and the embedding of positions."""
    names = ["c_attn", "c_proj", "c_fc", "wpe"]
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=names, fan_in_fan_out=True, task_type="CAUSAL_LM")
    reference, ids = peft.get_peft_model(gpt2(), config), torch.arange(12)[None]
    perturb_either(reference)
    reference.save_pretrained(tmp_path / "theirs")
    mine = load_adapter(gpt2(), tmp_path / "theirs").eval()
    expected = reference.eval()(ids).logits
    close(mine(ids).logits, expected)
    save_adapter(mine, next(named_adapters(mine))[1].config, tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(peft.PeftModel.from_pretrained(gpt2(), tmp_path / "ours").eval()(ids).logits, expected)
    merged = merge(mine)
    close(merged(ids).logits, expected)
    gpt2().load_state_dict(merged.state_dict())  # in the shapes that GPT-2 has


def test_our_files_over_a_conv1d_load_in_peft(tmp_path) -> None:
    config = LoRAConfig(rank=4, alpha=12, targets=tuple(SIZES))
    mine = perturb(inject(network("Conv1D"), config))
    save_adapter(mine, config, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft corrects fan_in_fan_out, and says so
        loaded = peft.PeftModel.from_pretrained(network("Conv1D"), tmp_path)
    x = torch.randn(5, 64)
    close(loaded(x), mine(x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["NF4", "NF4 double", "FP4", "int8"])
def test_every_method_takes_bitsandbytes(method: str, kind: str) -> None:
    """Starts as the base, merges into a dense layer that computes the same, and leaves the codes alone."""
    if method in ("layer-norm", "prompt", "prefix", "loftq"):
        pytest.skip("not for linear layers, or for dense ones alone")
    config = METHODS[method]
    config = replace(config, targets=tuple(SIZES), **({"feedforward_targets": ("v_proj",)} if method == "ia3" else {}))
    if method.startswith("oft"):
        config = replace(config, block_size=8)
    model, x = network(kind).train(), torch.randn(9, 64)
    plain = copy.deepcopy(model)
    expected = model(x)
    assert torch.equal(inject(model, config).eval().train()(x), expected)
    assert all(parameter.dtype == torch.float32 for parameter in trainable_parameters(model))
    perturb(model).eval()
    before = [layer.base_layer.weight.clone() for _, layer in named_adapters(model)]
    y = model(x)
    with adapters_disabled(model):
        assert torch.equal(model(x), plain.eval()(x))
    if method in ("serial", "parallel"):
        return
    layers = dict(named_adapters(model))
    assert all(torch.equal(layer.base_layer.weight, w) for layer, w in zip(layers.values(), before, strict=True))
    merge(model)
    for name, layer in layers.items():
        merged = model.get_submodule(name)
        assert type(merged) is nn.Linear and merged.weight.dtype == torch.float32
        weight = layer.folded()[0]
        torch.testing.assert_close(merged.weight, weight, rtol=0, atol=0)
    # LLM.int8() rounds activations to 8 bits, a dense layer does not
    close(model(x), y, 0.05 if kind == "int8" else 1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_four_bit_weights_are_those_of_bitsandbytes(quant_type, double, dtype, bias) -> None:
    layer = bnb.nn.Linear4bit(128, 96, bias, compress_statistics=double, quant_type=quant_type).to(dtype)
    layer = layer.to("cpu")
    expected = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert expected.dtype == dtype
    assert torch.equal(read_weight(layer, dtype), expected)
    merged = merge(perturb(inject(nn.Sequential(layer), BitFitConfig(targets=("0",)))))[0]
    assert merged.weight.dtype == dtype and torch.equal(merged.weight, expected)


@pytest.mark.parametrize("double", [False, True])
def test_four_bit_weights_in_the_order_of_avx512(double: bool) -> None:
    """A forward pass in eval mode rearranges the codes where the processor has AVX512-BF16, and rounds the scales."""
    from bitsandbytes.functional import _convert_weight_packed_for_cpu

    layer = four_bit(nn.Linear(128, 96), double=double)
    state = layer.weight.quant_state
    scales = state.absmax
    if double:
        scales = bnb.functional.dequantize_blockwise(scales, state.state2) + state.offset
    levels = read_weight(layer, torch.float32) / scales.repeat_interleave(64).view(96, 128)
    expected = levels * scales.bfloat16().float().repeat_interleave(64).view(96, 128)
    layer.weight.data, layer.weight.quant_state = _convert_weight_packed_for_cpu(layer.weight.data, state)
    torch.testing.assert_close(read_weight(layer, torch.float32), expected, rtol=1e-6, atol=0)
    assert merge(perturb(inject(nn.Sequential(layer), BitFitConfig(targets=("0",)))))[0].weight.dtype == torch.float32


def test_int8_weights_are_those_of_bitsandbytes() -> None:
    layer = eight_bit(nn.Linear(128, 96))
    expected = bnb.functional.int8_vectorwise_dequant(layer.weight.CB, layer.weight.SCB)
    torch.testing.assert_close(read_weight(layer, torch.float32), expected, rtol=2e-7, atol=0)
    layer(torch.randn(2, 128))  # moves the scales
    torch.testing.assert_close(read_weight(layer, torch.float32), expected, rtol=2e-7, atol=0)


def test_bitsandbytes_before_it_has_quantized() -> None:
    for layer in (bnb.nn.Linear4bit(64, 64), bnb.nn.Linear8bitLt(64, 64, has_fp16_weights=False)):
        assert torch.equal(read_weight(layer, torch.float32), layer.weight.data)


def test_a_module_of_bitsandbytes_layers() -> None:
    """Nothing in it has a floating dtype."""
    model = nn.ModuleDict({"mlp": nn.Sequential(four_bit(nn.Linear(64, 128, bias=False)), nn.ReLU())})
    inject(model, SerialAdapterConfig(bottleneck=4, targets=("mlp",)))
    assert model["mlp"].up_weight.shape == (128, 4) and model["mlp"].up_weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["NF4", "int8"])
def test_quantized_weights_are_not_quantized_or_trained(kind: str) -> None:
    with pytest.raises(TypeError, match=r"q_proj: LoftQLinear starts from the unrounded weight .* got Linear"):
        inject(network(kind), LoftQConfig(rank=2, targets=tuple(SIZES)))
    with pytest.raises(TypeError, match="quantized weights do not train, and q_proj is"):
        full_fine_tuning(network(kind))


class Int(nn.Module):
    """As GPTQ's layers and their kin: sizes of a linear layer, but codes for a weight."""

    def __init__(self, name: str, weight: torch.Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = 8, 6, None
        self.register_parameter(name, nn.Parameter(weight, requires_grad=False))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            Int("qweight", torch.zeros(8, 6, dtype=torch.int32)),
            "0: LoRALinear adapts linear layers, got Int; possible: ",
        ),
        (
            Int("weight", torch.zeros(6, 8, dtype=torch.int8)),
            r"0: the weight of Int is torch.int8 \(6, 8\), not floats",
        ),
        (
            Int("weight", torch.zeros(6, 8).to(torch.float8_e4m3fn)),
            "the weight of Int is torch.float8_e4m3fn .*, not floats of shape",
        ),
        (
            Int("weight", torch.zeros(8, 6)),
            r"Int is torch.float32 \(8, 6\), not floats of shape \(6, 8\); possible: nn",
        ),
        (nn.LazyLinear(6), "0: LazyLinear has no weight yet: run the model once"),
        (
            nn.Bilinear(8, 8, 6),
            "0: LoRALinear adapts linear layers, got Bilinear; possible: nn.Linear, QuantizedLinear, t",
        ),
        (torch.ao.nn.quantized.dynamic.Linear(8, 6), "the weight of Linear is method, not floats"),
    ],
    ids=["codes", "int8", "float8", "transposed", "lazy", "bilinear", "dynamic"],
)
def test_what_cannot_be_read_is_refused_by_name(layer: nn.Module, message: str) -> None:
    model = nn.Sequential(layer)
    for config in (LoRAConfig(rank=2, targets=("0",)), BitFitConfig(targets=("0",))):
        with pytest.raises(TypeError, match=message.replace("LoRALinear", r"\w+")):
            inject(model, config)
    assert model[0] is layer


# merging


class Louder(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    pass


def lora(layer: nn.Module) -> nn.Sequential:
    return perturb(inject(nn.Sequential(layer), LoRAConfig(rank=2, alpha=6, targets=("0",))))


def test_a_forward_of_its_own_is_not_merged() -> None:
    model = lora(Louder(8, 6))
    adapter = model[0]
    with pytest.raises(TypeError, match="0: Louder has a forward of its own"):
        merge(model)
    assert model[0] is adapter
    assert type(merge(lora(Renamed(8, 6)))[0]) is nn.Linear


HOOKS = ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]


@pytest.mark.parametrize("where", ["base_layer", "adapter"])
@pytest.mark.parametrize("hook", [*HOOKS, "patch"])
def test_hooks_are_not_lost_by_merging(hook: str, where: str) -> None:
    model = lora(nn.Linear(8, 6))
    layer = model[0].base_layer if where == "base_layer" else model[0]
    if hook == "patch":
        layer.forward = lambda x: type(layer).forward(layer, x) + 1  # as accelerate attaches its hooks
    else:
        handle = getattr(layer, f"register_{hook}")(lambda *_: None)
    adapter = model[0]
    with pytest.raises(ValueError, match=r"0: Linear has hooks or a forward of its own.*remove them, merge"):
        merge(model)
    assert model[0] is adapter
    if hook != "patch":
        handle.remove()
        assert type(merge(model)[0]) is nn.Linear


def test_parametrized_weights() -> None:
    model = nn.ModuleDict({"proj": nn.utils.parametrizations.weight_norm(nn.Linear(8, 6))})
    perturb(inject(model, LoRAConfig(rank=2, targets=("proj",))))
    x = torch.randn(4, 8)
    expected = model["proj"](x)
    close(merge(model)["proj"](x), expected, 1e-6)
    assert type(model["proj"]) is nn.Linear


def test_q4_linear_in_bf16_is_rounded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (96, 40), dtype=torch.uint8, generator=generator)
    scales = torch.rand(96, 4, generator=generator).half().view(torch.uint8).view(96, 2, 4)
    blocks.view(96, 2, 20)[:, :, :4] = scales
    layer = Q4Linear(blocks).to(torch.bfloat16)
    model = nn.Sequential(layer)
    inject(model, LoRAConfig(rank=2, alpha=2, targets=("0",)))
    nn.init.normal_(model[0].lora_B, std=0.1)
    exact = Q4Linear(blocks).double().weight + model[0].lora_B.double() @ model[0].lora_A.double()
    assert torch.equal(layer.weight, layer.dequantized(torch.float32).bfloat16())
    # but for ties of the fp32 sum; W rounded first makes a fifth differ
    assert (merge(model)[0].weight == exact.bfloat16()).float().mean() > 0.999


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_merged(value: float) -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8))
    perturb(inject(model, LoRAConfig(rank=2, targets=("0", "1"))))
    with torch.no_grad():
        model[1].lora_B[3, 0] = value
    before = list(model)
    with pytest.raises(
        ValueError, match=r"1: 6 of 48 values of the merged weight are NaN or infinite in torch.float32"
    ):
        merge(model)
    assert list(model) == before


def test_a_start_from_a_weight_that_is_not_finite() -> None:
    layer = nn.Linear(8, 6)
    layer.weight.data[2, 3] = float("nan")
    model = nn.Sequential(layer)
    with pytest.raises(ValueError, match=r"0: the weight has no singular value decomposition: .*non-finite"):
        inject(model, PiSSAConfig(rank=2, targets=("0",)))
    assert model[0] is layer and layer.weight.requires_grad


def test_half_precision_may_overflow_in_merging() -> None:
    model = lora(nn.Linear(8, 6, dtype=torch.float16))
    with torch.no_grad():
        model[0].lora_B.fill_(1e6)
    with pytest.raises(ValueError, match=r"48 of 48 values of the merged weight are NaN or infinite in torch.float16"):
        merge(model)


# layers whose weights others read


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "bitfit", "oft", "layer-norm"])
@pytest.mark.parametrize("quantized", [False, True])
def test_in_torchs_encoder_layer(method: str, quantized: bool) -> None:
    """In eval mode it reads the weights and calls no layer; in training it calls them. There is no dropout."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True)
    if quantized:
        quantize_model(layer, targets=("linear1", "linear2"))
    fields = {"feedforward_targets": ("linear2",)} if method == "ia3" else {}
    targets = ("norm1", "norm2") if method == "layer-norm" else ("linear1", "linear2")
    model = perturb(inject(layer, replace(METHODS[method], targets=targets, **fields)))
    x = torch.randn(2, 5, 12)
    called = model.train()(x)
    with torch.no_grad():
        close(model.eval()(x), called, 1e-5)
    in_eval = model.eval()(x)
    close(in_eval, called, 1e-5)
    parameters = trainable_parameters(model)
    gradient = torch.randn_like(called)
    found, wanted = (torch.autograd.grad(y, parameters, gradient) for y in (in_eval, called))
    for mine, expected in zip(found, wanted, strict=True):
        close(mine, expected)


def test_several_adapters_in_torchs_encoder_layer(tmp_path) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True)
    config = LoRAConfig(rank=2, targets=("linear1", "linear2"))
    for name in ("a", "b"):
        save_adapter(perturb(inject(copy.deepcopy(layer), config)), config, tmp_path / name)
    model, x = load_adapters(layer, {name: tmp_path / name for name in ("a", "b")}), torch.randn(2, 5, 12)
    for which in (None, "a", "b"):
        with using(model, which), torch.no_grad():
            close(model.eval()(x), model.train()(x))


def test_in_t5() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0)
    ).eval()
    ids = torch.arange(1, 7)[None]
    inject(model, LoRAConfig(rank=2, targets=("wo", "wi", "q", "v")))
    perturb(model)
    y = model(input_ids=ids, labels=ids).logits
    close(merge(model)(input_ids=ids, labels=ids).logits, y)


@pytest.mark.parametrize("kind", ["Conv1D", "NF4"])
def test_the_weight_that_is_read_can_be_differentiated(kind: str) -> None:
    model, x = network(kind), torch.randn(7, 64)
    perturb(inject(model, DoRAConfig(rank=2, targets=tuple(SIZES))))
    layer = model.q_proj
    weight = layer.weight.T if kind == "Conv1D" else layer.weight
    parameters = trainable_parameters(layer)
    read = torch.autograd.grad(F.linear(x, weight, layer.bias).square().sum(), parameters)
    called = torch.autograd.grad(layer(x).square().sum(), parameters)
    for mine, expected in zip(read, called, strict=True):
        close(mine, expected)


def test_a_conv1d_is_quantized_as_its_transpose() -> None:
    model = Network({name: conv1d(nn.Linear(*size)) for name, size in SIZES.items()})
    expected = QuantizedLinear.from_linear(merge_free(model.q_proj))
    quantize_model(model)
    assert torch.equal(model.q_proj.weight, expected.weight) and torch.equal(model.q_proj.bias, expected.bias)


def merge_free(conv: Conv1D) -> nn.Linear:
    linear = nn.Linear(conv.nx, conv.nf)
    linear.load_state_dict({"weight": conv.weight.T, "bias": conv.bias})
    return linear
