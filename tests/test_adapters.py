"""What `inject`, `merge` and their kin refuse, and LoRA against the closed forms of its paper."""

import math

import pytest
import torch
from torch import nn

from peft_lessons import (
    LoRAConfig,
    LoRALinear,
    QuantizedLinear,
    SerialAdapterConfig,
    adapter_state_dict,
    adapters_disabled,
    dequantize,
    inject,
    merge,
    remove_adapters,
    trainable_parameters,
)
from peft_lessons.adapters import replace_module


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(12, 12)
        self.v_proj = nn.Linear(12, 6)
        self.norm = nn.LayerNorm(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v_proj(self.norm(self.q_proj(x)))


def block() -> Block:
    torch.manual_seed(0)
    return Block()


def test_targets_match_at_dots_only() -> None:
    model = nn.ModuleDict({"a": block(), "b": block()})
    inject(model, LoRAConfig(targets=("a.q_proj",), rank=2))
    assert isinstance(model["a"].q_proj, LoRALinear)
    assert not isinstance(model["b"].q_proj, LoRALinear)
    with pytest.raises(ValueError, match="no module ends with 'proj'; this model has 'q_proj', 'v_proj'"):
        inject(block(), LoRAConfig(targets=("proj",), rank=2))


def test_every_target_must_match() -> None:
    model = block()
    with pytest.raises(ValueError, match="no module ends with 'q_prj'; this model has 'q_proj', 'v_proj'"):
        inject(model, LoRAConfig(targets=("v_proj", "q_prj"), rank=2))
    assert type(model.v_proj) is nn.Linear
    assert all(parameter.requires_grad for parameter in model.parameters()), "a failed call froze the model"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rank": 0}, ValueError, "rank must be at least 1, got 0"),
        ({"rank": -3}, ValueError, "at least 1, got -3"),
        ({"rank": 2.0}, TypeError, "whole number, got 2.0"),
        ({"rank": True}, TypeError, "whole number"),
        ({"alpha": 0}, ValueError, "alpha must be positive"),
        ({"alpha": math.nan}, ValueError, "alpha must be positive"),
        ({"alpha": math.inf}, ValueError, "alpha must be positive and finite"),
        ({"dropout": 1.0}, ValueError, "dropout is a probability"),
        ({"dropout": -0.1}, ValueError, "dropout is a probability"),
        ({"targets": "q_proj"}, TypeError, r"such as \('q_proj',\); got the string"),
        ({"targets": ()}, ValueError, "targets is empty"),
    ],
)
def test_config_refuses(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LoRAConfig(**change)


def test_rank_above_the_matrix_names_the_module_and_leaves_the_model_alone() -> None:
    model = block()
    with pytest.raises(ValueError, match=r"v_proj: rank 7 is above min\(in, out\) = 6"):
        inject(model, LoRAConfig(targets=("q_proj", "v_proj"), rank=7))
    assert type(model.q_proj) is nn.Linear
    assert inject(model, LoRAConfig(targets=("v_proj",), rank=6)).v_proj.lora_A.shape == (6, 12)


def test_injecting_twice_is_refused() -> None:
    model = inject(block(), LoRAConfig(targets=("q_proj",), rank=2))
    with pytest.raises(ValueError, match=r"has adapters already \(q_proj"):
        inject(model, LoRAConfig(targets=("v_proj",), rank=2))


@pytest.mark.parametrize("call", [1, 2])
def test_an_interruption_leaves_the_model_as_it_was(monkeypatch, call: int) -> None:
    model, calls = block(), []
    before = dict(model.named_modules())

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return replace_module(*arguments)

    monkeypatch.setattr("peft_lessons.adapters.replace_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        inject(model, LoRAConfig(targets=("q_proj", "v_proj"), rank=2))
    assert dict(model.named_modules()) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_only_linear_layers() -> None:
    with pytest.raises(TypeError, match="norm: LoRALinear adapts linear layers, got LayerNorm"):
        inject(block(), LoRAConfig(targets=("norm",), rank=2))


def test_merge_and_disable_need_adapters() -> None:
    with pytest.raises(ValueError, match="nothing to merge"):
        merge(block())
    with pytest.raises(ValueError, match="nothing to disable"), adapters_disabled(block()):
        pass


def test_remove_gives_back_the_very_layers() -> None:
    model = block()
    layers = dict(model.named_modules())
    assert dict(remove_adapters(inject(model, LoRAConfig(targets=("q_proj",), rank=2))).named_modules()) == layers


def test_shared_module_gets_one_adapter() -> None:
    model = block()
    model.twin = model.q_proj
    inject(model, LoRAConfig(targets=("q_proj",), rank=2))
    assert model.twin is model.q_proj
    assert len(trainable_parameters(model)) == 2
    assert merge(model).twin is model.q_proj


@pytest.mark.parametrize("targets", [("twin",), ("q_proj", "twin")])
def test_shared_module_is_found_by_each_of_its_names(targets: tuple[str, ...]) -> None:
    model = block()
    model.twin = model.q_proj
    inject(model, LoRAConfig(targets=targets, rank=2))
    assert isinstance(model.twin, LoRALinear)
    assert type(model.twin.base_layer) is nn.Linear
    assert model.twin is model.q_proj


def test_an_adapter_layer_alone() -> None:
    layer = inject(block(), LoRAConfig(targets=("q_proj",), rank=2)).q_proj
    nn.init.normal_(layer.lora_B)
    x = torch.randn(3, 12)
    plain = merge(layer)
    assert type(plain) is nn.Linear
    torch.testing.assert_close(plain(x), layer(x))
    assert remove_adapters(layer) is layer.base_layer


def test_output_projection_of_attention_is_refused() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2)})
    with pytest.raises(TypeError, match=r"attention\.out_proj: LoRALinear cannot adapt .* nn\.MultiheadAttention"):
        inject(model, LoRAConfig(targets=("out_proj",), rank=2))


def test_training_mode_is_kept() -> None:
    model = block().eval()
    inject(model, LoRAConfig(targets=("q_proj",), rank=2, dropout=0.5))
    assert not any(module.training for module in model.modules())
    assert merge(model).q_proj.training is False


def test_scaling() -> None:
    assert LoRAConfig(rank=4, alpha=12).scaling == 3
    assert LoRAConfig(rank=4, alpha=12, rank_stabilized=True).scaling == 6
    with pytest.raises(AttributeError):
        LoRAConfig().rank = 3


def test_rank_stabilized_equals_lora_with_alpha_times_root_rank() -> None:
    outputs = []
    for config in (
        LoRAConfig(rank=16, alpha=5, rank_stabilized=True, targets=("0",)),
        LoRAConfig(rank=16, alpha=20, targets=("0",)),
    ):
        torch.manual_seed(0)
        model = inject(nn.Sequential(nn.Linear(32, 32)), config)
        nn.init.normal_(model[0].lora_B)
        outputs.append(model(torch.ones(32)))
    assert torch.equal(*outputs)


def test_first_gradients_follow_the_paper() -> None:
    """∂B = s·G·Aᵀ and ∂A = s·Bᵀ·G, with G the gradient that a full fine-tune would see; ∂A = 0 at the start."""
    torch.manual_seed(0)
    linear = nn.Linear(10, 7, dtype=torch.float64)
    x, target = torch.randn(20, 10, dtype=torch.float64), torch.randn(20, 7, dtype=torch.float64)
    (G,) = torch.autograd.grad((linear(x) - target).square().mean(), linear.weight)
    layer = inject(nn.Sequential(linear), LoRAConfig(rank=3, alpha=7.5, targets=("0",)))[0]
    (layer(x) - target).square().mean().backward()
    torch.testing.assert_close(layer.lora_B.grad, 2.5 * G @ layer.lora_A.detach().T)
    assert torch.equal(layer.lora_A.grad, torch.zeros_like(layer.lora_A))
    with torch.no_grad():
        layer.lora_B.normal_()
    layer.lora_A.grad = None
    merged = layer.merged().requires_grad_()
    (G,) = torch.autograd.grad((merged(x) - target).square().mean(), merged.weight)
    (layer(x) - target).square().mean().backward()
    torch.testing.assert_close(layer.lora_A.grad, 2.5 * layer.lora_B.detach().T @ G)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_parameter_count(rank: int) -> None:
    model = inject(block(), LoRAConfig(rank=rank, targets=("q_proj", "v_proj")))
    assert sum(p.numel() for p in trainable_parameters(model)) == rank * (12 + 12) + rank * (12 + 6)


def test_adapter_state_holds_adapters_only() -> None:
    model = inject(block(), LoRAConfig(targets=("q_proj",), rank=2))
    assert {name: tuple(t.shape) for name, t in adapter_state_dict(model).items()} == {
        "q_proj.lora_A": (2, 12),
        "q_proj.lora_B": (12, 2),
    }


def test_adapters_over_bf16_are_fp32_and_merging_rounds_once() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 64, dtype=torch.bfloat16)
    model = inject(nn.Sequential(linear), LoRAConfig(rank=2, alpha=2, targets=("0",)))
    assert model[0].lora_A.dtype == torch.float32
    nn.init.normal_(model[0].lora_B, std=0.01)
    exact = linear.weight.double() + model[0].lora_B.double() @ model[0].lora_A.double()
    merged = merge(model)[0].weight
    assert merged.dtype == torch.bfloat16
    # fp32 holds the sum to 2^-24, so that rounding it once is rounding the exact sum, but for near ties
    assert (merged == exact.bfloat16()).float().mean() > 0.999


def test_merging_over_a_quantized_bf16_layer_rounds_once() -> None:
    torch.manual_seed(0)
    base = QuantizedLinear.from_linear(nn.Linear(64, 64, dtype=torch.bfloat16))
    layer = inject(nn.Sequential(base), LoRAConfig(rank=2, alpha=2, targets=("0",)))[0]
    nn.init.normal_(layer.lora_B, std=0.01)
    exact = dequantize(base.quantized, torch.float64) + layer.lora_B.double() @ layer.lora_A.double()
    assert layer.merged().weight.dtype == torch.bfloat16
    # as above; the levels are float32 products, and rounding W to bf16 first makes a fifth of the weights differ
    assert (layer.merged().weight == exact.bfloat16()).float().mean() > 0.999


def test_dropout_acts_in_training_only_and_on_the_adapter_only() -> None:
    torch.manual_seed(0)
    model = inject(nn.Sequential(nn.Linear(32, 32)), LoRAConfig(rank=4, dropout=0.5, targets=("0",)))
    x = torch.ones(32)
    assert torch.equal(model.train()(x), model[0].base_layer(x)), "B is zero, and the base reads all of x"
    nn.init.normal_(model[0].lora_B)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    with adapters_disabled(model.train()):
        assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("targets", [("mlp", "down"), ("down", "mlp")])
def test_no_adapter_inside_of_another(targets: tuple[str, ...]) -> None:
    """The inner one would hang on the outer wrapper and never be called."""
    model = nn.ModuleDict({"mlp": nn.Sequential()})
    model["mlp"].add_module("up", nn.Linear(4, 6))
    model["mlp"].add_module("down", nn.Linear(6, 4))
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=r"mlp\.down lies inside of mlp, and both would be adapted: name one of them"):
        inject(model, SerialAdapterConfig(bottleneck=2, targets=targets))
    assert dict(model.named_modules()) == before
    assert all(parameter.requires_grad for parameter in model.parameters())
