"""FLOPs: exactly those that torch's own counter sees."""

import pytest
import torch
from accounting_cases import METHODS, SHAPE, meta_decoder, plain_loss, prepared, tiny
from method_cases import QV
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from peft_lessons import inject, low_rank
from peft_lessons.accounting import (
    FullFineTuning,
    HeadOnly,
    flops_break_even_rank,
    linear_flops,
    model_shape,
    step_flops,
    trained_parameters,
)
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.lora_fa import LoRAFAConfig
from peft_lessons.methods.prefix import PrefixTuningConfig
from peft_lessons.methods.prompt import PromptTuningConfig
from peft_lessons.models.decoder import DecoderStack

BATCH, TOKENS = 3, 11


def seen(forward):
    """(forward, backward) as FlopCounterMode counts them; attention unfused, since its CPU kernel counts as nothing."""
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            result = forward()
        there = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            result.backward()
        return there, counter.get_total_flops()


def step(model, checkpointing=False):
    for module in model.modules():
        if isinstance(module, DecoderStack):
            module.gradient_checkpointing = checkpointing
    ids = torch.arange(BATCH * TOKENS).view(BATCH, TOKENS) % SHAPE.vocab_size
    return lambda: plain_loss(model, ids)


@pytest.mark.parametrize(
    ("name", "checkpointing"),
    [(name, False) for name in METHODS] + [(name, True) for name in METHODS if name != "prefix"],
)
def test_a_whole_step(name, checkpointing):
    counted = step_flops(SHAPE, METHODS[name], batch=BATCH, tokens=TOKENS, checkpointing=checkpointing)
    with set_checkpoint_early_stop(False):
        assert (counted.forward, counted.backward) == seen(step(tiny(METHODS[name]), checkpointing))


@pytest.mark.parametrize("name", ["full", "lora", "ia3"])
def test_torch_stops_computing_a_block_again_before_its_last_product(name):
    """What is said of checkpointing: the count is an upper bound, by at most the down projection and its adapter."""
    counted = step_flops(SHAPE, METHODS[name], batch=BATCH, tokens=TOKENS, checkpointing=True)
    _, backward = seen(step(tiny(METHODS[name]), checkpointing=True))
    down = linear_flops(112, 48, LoRAConfig(rank=4), tokens=BATCH * TOKENS).forward
    assert 0 < counted.backward - backward <= SHAPE.num_hidden_layers * down


@pytest.mark.slow
@pytest.mark.parametrize("model_name", ["SmolLM2-135M", "Llama-3.2-3B"])
@pytest.mark.parametrize("name", ["full", "lora", "lora q, v", "lora last layer", "vera", "serial"])
def test_published_shapes_on_the_meta_device(name, model_name):
    shape, method = model_shape(model_name), METHODS[name]
    model = prepared(meta_decoder(shape), method)
    ids = torch.zeros(2, 16, dtype=torch.long, device="meta")
    counted = step_flops(shape, method, batch=2, tokens=16)
    assert (counted.forward, counted.backward) == seen(lambda: model(ids).sum())


# ---------------------------------------------------------------------------------------------------- single layers


ONE_LAYER = {
    "frozen": None,
    "full": FullFineTuning(),
    "LoRA": LoRAConfig(rank=4, targets=("0",)),
    "LoRA-FA": LoRAFAConfig(rank=4, targets=("0",)),
}


@pytest.mark.parametrize(
    ("method", "input_gradient"),
    [(method, True) for method in ONE_LAYER.values()] + [(method, False) for method in ONE_LAYER.values() if method],
    ids=[f"{name}, interior" for name in ONE_LAYER] + [f"{name}, first" for name in ONE_LAYER if ONE_LAYER[name]],
)
@pytest.mark.parametrize("tokens", [7, 300], ids=["few rows", "many rows"])
@pytest.mark.parametrize("hooks", [True, False], ids=["hooks", "no hooks"])
def test_one_layer(method, input_gradient, tokens, hooks, monkeypatch):
    """The counter sets hooks on all modules, and an adapter over a layer with hooks computes in another way."""
    if not hooks:
        monkeypatch.setattr(low_rank, "_has_any_global_hook", lambda: False)
    model = nn.Sequential(nn.Linear(48, 112, bias=False))
    if isinstance(method, LoRAConfig):
        inject(model, method)
    elif method is None:
        model.requires_grad_(False)
    x = torch.randn(tokens, 48, requires_grad=input_gradient)
    counted = linear_flops(48, 112, method, tokens=tokens, input_gradient=input_gradient)
    assert (counted.forward, counted.backward) == seen(lambda: model(x).sum())


@pytest.mark.parametrize(
    ("method", "interior", "with_first"),
    [
        (FullFineTuning(), 6.0, 5.5),
        (LoRAConfig(rank=16), 4.1875, 3.68),
        (LoRAConfig(rank=256), 7.0, None),
        (None, 4.0, None),
    ],
    ids=["full", "LoRA 16", "LoRA 256", "frozen"],
)
def test_operations_for_each_parameter_and_token(method, interior, with_first):
    """1024 × 1024; the second column is the mean of four layers of which the first has an input without gradient."""
    inner = linear_flops(1024, 1024, method, tokens=32).total / (32 * 1024**2)
    assert inner == interior
    if with_first is not None:
        first = linear_flops(1024, 1024, method, tokens=32, input_gradient=False).total / (32 * 1024**2)
        assert (3 * inner + first) / 4 == pytest.approx(with_first, abs=0.001)


@pytest.mark.parametrize("rank", [1, 16, 100, 512])
def test_lora_over_full_of_a_square_matrix(rank):
    N = 1024
    lora = linear_flops(N, N, LoRAConfig(rank=rank), tokens=1).total
    assert lora / linear_flops(N, N, FullFineTuning(), tokens=1).total == (2 * N**2 + 6 * N * rank) / (3 * N**2)


@pytest.mark.parametrize(("d_in", "d_out"), [(1024, 1024), (768, 3072), (11008, 4096)])
def test_break_even_rank_is_where_lora_starts_to_cost_more(d_in, d_out):
    full = linear_flops(d_in, d_out, FullFineTuning(), tokens=1).total
    rank = flops_break_even_rank(d_in, d_out)
    assert linear_flops(d_in, d_out, LoRAConfig(rank=int(rank)), tokens=1).total <= full
    assert linear_flops(d_in, d_out, LoRAConfig(rank=int(rank) + 1), tokens=1).total > full


# -------------------------------------------------------------------------------------------------- rules for a token


def matrices(shape):
    return sum(module.in_features * module.out_features for module in shape.modules if module.kind == "linear")


def attention(shape, length):
    """Both products of all heads, forward."""
    return 4 * length**2 * shape.attention_size * shape.num_hidden_layers


@pytest.mark.parametrize("name", ["SmolLM2-135M", "Llama-3.1-8B", "GPT-2 small", "RoBERTa-large"])
def test_full_fine_tuning_is_six_operations_a_parameter(name):
    shape, s = model_shape(name), 64
    assert step_flops(shape, FullFineTuning(), batch=1, tokens=s).total == 6 * matrices(shape) * s + 3 * attention(
        shape, s
    )


def test_lora_is_four_a_parameter_and_six_a_trained_one():
    """Less what the first layer's queries, keys and values need not pass on."""
    shape, s, lora = model_shape("Llama-3.1-8B"), 64, LoRAConfig(rank=16)
    counted = step_flops(shape, lora, batch=1, tokens=s).total
    rule = (4 * matrices(shape) + 6 * trained_parameters(shape, lora)) * s + 3 * attention(shape, s)
    first = [module for module in shape.block_linears if module.layer == 0][:3]
    spared = sum(2 * m.in_features * m.out_features + 2 * 16 * m.in_features for m in first) * s
    assert counted == rule - spared


def test_checkpointing_adds_a_forward_pass_of_the_blocks():
    shape, options = model_shape("Llama-3.1-8B"), {"batch": 1, "tokens": 64}
    plain = step_flops(shape, FullFineTuning(), **options)
    checkpointed = step_flops(shape, FullFineTuning(), **options, checkpointing=True)
    head = 2 * 64 * shape.hidden_size * shape.vocab_size
    assert checkpointed.total - plain.total == checkpointed.recomputed == plain.forward - head


def test_a_prompt_is_paid_for_as_tokens_are():
    """(n + p) / n of the linear layers of the blocks; the head reads only what was asked."""
    shape = model_shape("SmolLM2-135M")
    prompted = step_flops(shape, PromptTuningConfig(tokens=16), batch=1, tokens=48).forward
    blocks = 2 * shape.linear_parameters * 64 + attention(shape, 64)
    assert prompted == blocks + 2 * 48 * shape.hidden_size * shape.vocab_size


def test_nothing_is_computed_below_the_lowest_that_trains():
    shape = model_shape("Llama-3.1-8B")
    head = step_flops(shape, HeadOnly(), batch=1, tokens=64)
    assert head.backward == 2 * 64 * shape.hidden_size * shape.vocab_size
    assert step_flops(shape, LoRAConfig(targets=QV), batch=1, tokens=64).backward > 100 * head.backward / 7


# -------------------------------------------------------------------------------------------------------- wrong input


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match="batch must be at least 1, got -2"):
        step_flops(SHAPE, FullFineTuning(), batch=-2, tokens=8)
    with pytest.raises(ValueError, match="tokens must be at least 1, got 0"):
        linear_flops(8, 8, tokens=0)
    with pytest.raises(ValueError, match="cache"):
        step_flops(SHAPE, PrefixTuningConfig(), batch=1, tokens=8, checkpointing=True)
    with pytest.raises(ValueError, match="d_in must be at least 1"):
        flops_break_even_rank(0, 8)
