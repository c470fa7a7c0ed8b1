"""Activations: what autograd really keeps, and what it really allocates."""

from dataclasses import fields, replace

import peft
import pytest
import torch
from accounting_cases import ADAPTERS, METHODS, SHAPE, TINY, plain_loss, tiny
from method_cases import CASES, QV
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.training import in_transformers
from peft_lessons import AdapterConfig, inject
from peft_lessons.accounting import FullFineTuning, activations, model_shape, training_memory
from peft_lessons.accounting.memory import TRAIN_FP32
from peft_lessons.methods import registry
from peft_lessons.methods.dora import DoRAConfig
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.lora_fa import LoRAFAConfig
from peft_lessons.methods.prefix import PrefixTuningConfig
from peft_lessons.models.decoder import Decoder, DecoderStack

TOKENS = 11
KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "plain": SDPBackend.MATH}


def kept_bytes(model, forward, *given):
    """Bytes of the storages that autograd saves in `forward`, each once, less parameters, buffers and `given`."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), *given]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()  # `kept` holds on to each storage, so that no address comes twice
    return sum(storage.nbytes() for storage in kept.values())


class Allocations(TorchDispatchMode):
    """Every storage that an operation returns, and whether somebody still holds it."""

    def __init__(self):
        super().__init__()
        self.storages = {}  # weak reference: bytes

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **options or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[StorageWeakRef(storage)] = storage.nbytes()
        return result

    @property
    def alive(self):
        return {weak.cdata: size for weak, size in self.storages.items() if not weak.expired()}


def alive_bytes(model, forward, *given):
    """Bytes that `forward` allocates and that are held as long as its result is."""
    with Allocations() as allocations:
        result = forward()
    own = {StorageWeakRef(t.untyped_storage()).cdata for t in [result, *model.parameters(), *model.buffers(), *given]}
    return sum(size for storage, size in allocations.alive.items() if storage not in own)


def for_each_sequence(measure, model, own=None):
    """How `measure` of a training step's forward pass grows with the batch: from 2 to 5 sequences, over 3.

    `own` is the module whose weights do not count, if `model` is only a function around it.
    """
    found = []
    for batch in (2, 5):
        ids = torch.arange(batch * TOKENS).view(batch, TOKENS) % SHAPE.vocab_size
        found.append(measure(own or model, lambda ids=ids: plain_loss(model, ids), ids))
    growth = found[1] - found[0]
    assert growth % 3 == 0
    return growth // 3


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_what_autograd_keeps(name, dtype, attention):
    model = tiny(METHODS[name], dtype)
    with sdpa_kernel(KERNELS[attention]):
        kept = for_each_sequence(kept_bytes, model)
    counted = activations(
        SHAPE, METHODS[name], batch=1, tokens=TOKENS, bytes_per_number=dtype.itemsize, attention=attention
    )
    assert counted.total == kept


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["full", "last layer", "lora", "lora last layer", "dora", "ia3", "prompt"])
def test_what_the_allocator_holds_after_the_forward_pass(name, checkpointing):
    """Blocks under checkpoint save nothing through autograd's hooks: this asks the allocator instead."""
    model = tiny(METHODS[name])
    for module in model.modules():
        if isinstance(module, DecoderStack):
            module.gradient_checkpointing = checkpointing
    held = for_each_sequence(alive_bytes, model)
    counted = activations(SHAPE, METHODS[name], batch=1, tokens=TOKENS, bytes_per_number=4, checkpointing=checkpointing)
    assert counted.blocks + counted.head == held


def test_one_block_at_a_time_is_computed_again():
    options = {"batch": 2, "tokens": TOKENS, "bytes_per_number": 2}
    whole = activations(SHAPE, FullFineTuning(), **options)
    checkpointed = activations(SHAPE, FullFineTuning(), **options, checkpointing=True)
    assert checkpointed.blocks == SHAPE.num_hidden_layers * 2 * TOKENS * 2 * SHAPE.hidden_size
    assert checkpointed.recomputed * SHAPE.num_hidden_layers == whole.blocks
    assert checkpointed.head == whole.head


# -------------------------------------------------------------------------------------------------- what LoRA changes


EACH = ("0", "2", "4")


@pytest.mark.parametrize(
    ("method", "units"),
    [
        (None, 2.0),
        (LoRAConfig(rank=16, targets=EACH), 2.015625),
        (LoRAFAConfig(rank=16, targets=EACH), 1.015625),
    ],
    ids=["full", "LoRA", "LoRA-FA"],
)
def test_units_of_a_layer_and_its_nonlinearity(method, units):
    """Width 1024, rank 16: LoRA keeps more than full fine-tuning, not less."""
    layers = [nn.Linear(1024, 1024), nn.GELU(), nn.Linear(1024, 1024), nn.GELU(), nn.Linear(1024, 1024), nn.GELU()]
    model = nn.Sequential(*layers)
    if method:
        inject(model, method)
    x = torch.zeros(8, 1024, requires_grad=True)
    kept = kept_bytes(model, lambda: model(x))
    assert kept / (3 * x.nbytes) == units


def test_lora_on_all_layers_spares_a_llama_only_what_trained_norms_keep():
    """x/rms in fp32, 15 % of the blocks; and the first norm, below which none trains."""
    options = {"batch": 1, "tokens": 2048}
    shape = model_shape("Llama-3.1-8B")
    full = activations(shape, FullFineTuning(), **options)
    lora = activations(shape, LoRAConfig(rank=16), **options)
    d, L = shape.hidden_size, shape.num_hidden_layers
    first = 2048 * (4 * d + 4)  # the first norm's input: nothing below it trains
    low_rank = L * 7 * 16 * 2 * 2048
    assert full.blocks - lora.blocks == L * 2 * 2048 * 4 * d + first - low_rank
    assert lora.blocks / full.blocks == pytest.approx(0.853, abs=0.001)


def test_freezing_layers_does_save():
    shape, options = model_shape("Llama-3.1-8B"), {"batch": 1, "tokens": 512}
    counts = [
        activations(shape, method, **options).blocks
        for method in (LoRAConfig(), LoRAConfig(targets=QV), LoRAFAConfig())
    ]
    assert counts == sorted(counts, reverse=True)


# ------------------------------------------------------------------------------------------------ dropout, peft's LoRA


def fused_dropout(x, p=0.5, training=True, inplace=False):
    """A GPU's kernel, which keeps a byte for each number; a CPU's keeps one in the input's dtype."""
    return torch.native_dropout(x, p, training)[0]


def drops(config):
    return "dropout" in (field.name for field in fields(config))


DROPS: dict[str, AdapterConfig] = {
    **{name: replace(CASES[name].config, dropout=0.1) for name in registry.METHODS if drops(CASES[name].config)},
    "lora q, v": LoRAConfig(rank=4, dropout=0.1, targets=QV),
    "lora with head": LoRAConfig(rank=4, dropout=0.1, targets=("v_proj", "lm_head")),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", DROPS)
def test_what_dropout_keeps(name, dtype, monkeypatch):
    monkeypatch.setattr(nn.functional, "dropout", fused_dropout)
    model = tiny(DROPS[name], dtype).train()
    counted = activations(SHAPE, DROPS[name], batch=1, tokens=TOKENS, bytes_per_number=dtype.itemsize)
    with sdpa_kernel(KERNELS["flash"]):
        assert counted.total == for_each_sequence(kept_bytes, model)


def in_peft(model, method):
    """The same adapters, put in by peft, in fp32."""
    config = peft.LoraConfig(
        r=method.rank,
        rank_pattern=dict(method.rank_pattern),
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=list(method.targets),
    )
    return peft.get_peft_model(model, config).train()


PEFTS = {name: config for name, config in ADAPTERS.items() if type(config) is LoRAConfig}
PEFTS |= {f"{name}, dropout": config for name, config in DROPS.items() if type(config) is LoRAConfig}


@pytest.mark.parametrize(
    ("dtype", "adapters"),
    [(torch.float32, "peft"), (torch.bfloat16, "peft"), (torch.bfloat16, "peft, autocast")],
    ids=["fp32", "bf16", "autocast"],
)
@pytest.mark.parametrize("name", PEFTS)
def test_what_peft_keeps(name, dtype, adapters, monkeypatch):
    monkeypatch.setattr(nn.functional, "dropout", fused_dropout)
    method = PEFTS[name]
    torch.manual_seed(0)
    model = in_peft(Decoder(TINY).to(dtype), method)
    with sdpa_kernel(KERNELS["flash"]), torch.autocast("cpu", torch.bfloat16, enabled="autocast" in adapters):
        kept = for_each_sequence(kept_bytes, model)
    counted = activations(SHAPE, method, batch=1, tokens=TOKENS, bytes_per_number=dtype.itemsize, adapters=adapters)
    assert counted.total == kept


@pytest.mark.parametrize("adapters", ["peft", "peft, autocast"])
@pytest.mark.parametrize("name", ["lora", "lora, dropout", "lora q, v, dropout"])
def test_what_peft_keeps_in_transformers_llama(name, adapters, monkeypatch):
    monkeypatch.setattr(nn.functional, "dropout", fused_dropout)
    torch.manual_seed(0)
    model = in_peft(in_transformers(Decoder(TINY)).bfloat16(), PEFTS[name])
    with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in adapters):
        kept = for_each_sequence(kept_bytes, lambda ids: model(ids).logits, model)
    assert activations(SHAPE, PEFTS[name], batch=1, tokens=TOKENS, adapters=adapters).total == kept


def test_units_of_three_layers_that_read_the_same_input():
    """x in bf16 is one unit: peft keeps three copies in fp32, three in bf16 under autocast; ours is one for all."""
    shape = model_shape("Llama-3.1-8B")
    every = ("ours", "peft", "peft, autocast")

    def bare(method):
        return activations(shape, method, batch=1, tokens=512).blocks

    def units(adapters, dropout):
        def count(method):
            return activations(shape, method, batch=1, tokens=512, adapters=adapters).blocks

        one = LoRAConfig(rank=1, dropout=dropout, targets=("q_proj", "k_proj", "v_proj"))
        other = LoRAConfig(rank=2, dropout=dropout, targets=("q_proj", "k_proj", "v_proj"))
        kept = 2 * count(one) - count(other)  # at rank 0
        frozen_A = [LoRAFAConfig(rank=rank, targets=one.targets) for rank in (1, 2)]  # which needs no input
        base = 2 * bare(frozen_A[0]) - bare(frozen_A[1])
        return (kept - base) / (2 * 512 * shape.hidden_size * shape.num_hidden_layers)

    assert {name: units(name, 0.0) for name in every} == {"ours": 1, "peft": 6, "peft, autocast": 3}
    assert {name: round(units(name, 0.05), 1) for name in every} == {"ours": 4.5, "peft": 7.5, "peft, autocast": 4.5}


def test_what_pefts_copies_cost_a_large_model():
    """Llama-3.1-8B, 2,048 tokens, all linear layers: 6.7 GB more than needed, and under autocast 1.6."""
    options = {"batch": 1, "tokens": 2048}
    ours, theirs, autocast = (
        activations(model_shape("Llama-3.1-8B"), LoRAConfig(rank=16), **options, adapters=adapters).total / 1e9
        for adapters in ("ours", "peft", "peft, autocast")
    )
    assert theirs - ours == pytest.approx(6.73, abs=0.01)
    assert autocast - ours == pytest.approx(1.61, abs=0.01)


def test_pefts_habit_is_not_counted_of_other_methods():
    with pytest.raises(ValueError, match="what peft keeps of DoRAConfig is not counted here, only of LoRAConfig"):
        activations(SHAPE, DoRAConfig(rank=4), batch=1, tokens=8, adapters="peft")
    with pytest.raises(ValueError, match="adapters is 'hf'; possible: ours; peft; peft, autocast"):
        activations(SHAPE, LoRAConfig(rank=4), batch=1, tokens=8, adapters="hf")
    full = {"batch": 1, "tokens": 8}
    assert activations(SHAPE, FullFineTuning(), **full, adapters="peft") == activations(SHAPE, FullFineTuning(), **full)


# --------------------------------------------------------------------------------------- GPT-style, arXiv:2205.05198


@pytest.mark.parametrize("name", ["GPT-2 small", "GPT-3 175B", "RoBERTa-large"])
def test_formulas_of_korthikanti_et_al(name):
    shape, b, s = model_shape(name), 3, 384
    h, a, L = shape.hidden_size, shape.num_attention_heads, shape.num_hidden_layers

    def blocks(**options):
        return activations(shape, FullFineTuning(), batch=b, tokens=s, **options).blocks

    assert blocks(attention="plain") == pytest.approx(L * s * b * h * (34 + 5 * a * s / h), rel=1e-12)
    assert blocks(attention="flash") == L * 34 * s * b * h
    assert blocks(checkpointing=True) == L * 2 * s * b * h


def test_the_papers_saving_for_gpt3():
    """Its §5 says that not keeping the scores saves 70 % for GPT-3: 80 of 34 + 80."""
    options = {"batch": 1, "tokens": 2048}
    plain = activations(model_shape("GPT-3 175B"), FullFineTuning(), attention="plain", **options).blocks
    flash = activations(model_shape("GPT-3 175B"), FullFineTuning(), attention="flash", **options).blocks
    assert flash / plain == 34 / 114
    assert 1 - flash / plain == pytest.approx(0.70, abs=0.005)


def test_adapters_on_gpt2_add_and_save_nothing():
    shape, options = model_shape("GPT-2 small"), {"batch": 2, "tokens": 64}
    lora = LoRAConfig(rank=8, targets=("c_attn.q", "c_attn.v"))
    more = activations(shape, lora, **options).blocks - activations(shape, FullFineTuning(), **options).blocks
    assert more == 2 * 64 * 2 * (2 * 8) * 12


# -------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": -1, "tokens": 8}, "batch must be at least 1, got -1"),
        ({"batch": 1, "tokens": 0}, "tokens must be at least 1, got 0"),
        ({"batch": 1, "tokens": 8, "attention": "sparse"}, "'sparse'; possible: flash, plain"),
    ],
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        activations(SHAPE, FullFineTuning(), **options)
    with pytest.raises(ValueError, match=message):
        training_memory(SHAPE, FullFineTuning(), precision=TRAIN_FP32, **options)


def test_a_count_is_a_whole_number():
    with pytest.raises(TypeError, match=r"batch is a whole number, got 1\.5"):
        activations(SHAPE, FullFineTuning(), batch=1.5, tokens=8)


def test_a_prefix_does_not_go_with_checkpointing():
    with pytest.raises(ValueError, match="cache"):
        activations(SHAPE, PrefixTuningConfig(), batch=1, tokens=8, checkpointing=True)
