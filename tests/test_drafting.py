"""Text written with a draft is the model's own, whatever the draft guesses; and the draft guesses well."""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from contract import perturb
from test_decoder import CONFIG, ids, new_decoder
from torch import nn

from peft_lessons import (
    AdaLoRAConfig,
    AdapterConfig,
    BitFitConfig,
    DoRAConfig,
    IA3Config,
    LayerNormTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoRAConfig,
    LoRAFAConfig,
    MiSSConfig,
    OFTConfig,
    ParallelAdapterConfig,
    PiSSAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SerialAdapterConfig,
    VeRAConfig,
    adapters_disabled,
    inject,
    merge,
    quantize_model,
    save_adapter,
)
from peft_lessons.models import drafting
from peft_lessons.models.decoder import Decoder, DecoderConfig, KeyValueCache, generate, generate_steps
from peft_lessons.models.drafting import Codes, Draft
from peft_lessons.multi_adapter import load_adapters, using
from peft_lessons.quantization.simulated import FakeQuantizedLinear

DRAFTED = [
    LoRAConfig(rank=4, alpha=12),
    LoRAConfig(rank=4, alpha=12, dropout=0.5, targets=("q_proj", "down_proj")),
    LoRAConfig(rank=4, alpha=12, targets=("lm_head", "o_proj")),
    LoRAFAConfig(rank=4, targets=("k_proj", "v_proj")),
    PiSSAConfig(rank=4),
    AdaLoRAConfig(rank=4, target_rank=2),
    VeRAConfig(rank=16),
    MiSSConfig(rank=8),
    LayerNormTuningConfig(),
]
NOT_DRAFTED = [
    DoRAConfig(rank=4),
    LoHaConfig(rank=2),
    LoKrConfig(rank=2),
    OFTConfig(block_size=4),
    IA3Config(),
    BitFitConfig(targets=("q_proj",)),
    SerialAdapterConfig(bottleneck=4),
    ParallelAdapterConfig(bottleneck=4),
    PromptTuningConfig(tokens=5),
    PrefixTuningConfig(tokens=5),
]


def four_bit_decoder(config: DecoderConfig = CONFIG, seed: int = 0) -> Decoder:
    """A new decoder whose linear weights are each one of sixteen evenly spaced values, as those of a 4-bit file."""
    model = new_decoder(config, seed)
    with torch.no_grad():
        for module in model.modules():
            if type(module) is nn.Linear:
                blocks = module.weight.unflatten(1, (-1, 32))
                blocks.copy_((torch.rand(blocks.shape).argsort(-1) // 2 - 7.5) * 0.04)  # each value twice in a block
    return model


@pytest.fixture(autouse=True)
def small_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "SMALLEST", 0)


@pytest.fixture
def guesses(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many tokens drafts have guessed, and how many of them rightly."""
    counts = {"made": 0, "right": 0}
    judge = Draft.judge

    def counting(self: Draft, made: int, right: int) -> bool:
        counts["made"] += made
        counts["right"] += right
        return judge(self, made, right)

    monkeypatch.setattr(Draft, "judge", counting)
    return counts


def without_a_draft(*arguments, **options) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafting, "draft_for", lambda *_: None)
        return generate(*arguments, **options)


def check_same(model: Decoder, **options) -> None:
    """Equal text, greedy and sampled: fp32 sums of several rows differ from those of one by some 1e-6 of the logits."""
    for temperature in (0.0, 0.9):
        prompt = ids(1, 7)
        plain = without_a_draft(model, prompt, 40, temperature=temperature, seed=3, **options)
        assert torch.equal(generate(model, prompt, 40, temperature=temperature, seed=3, **options), plain)
        assert len(plain.unique()) > 2


@pytest.mark.parametrize("heads", [(6, 2), (6, 6), (6, 1)])
@pytest.mark.parametrize("tied", [True, False])
def test_text_is_the_model_s_own(heads: tuple[int, int], tied: bool, guesses: dict[str, int]) -> None:
    config = replace(CONFIG, num_attention_heads=heads[0], num_key_value_heads=heads[1], tie_word_embeddings=tied)
    check_same(four_bit_decoder(config))
    assert guesses["right"] > 0.5 * guesses["made"] > 0, "on random weights, whose logits lie closer than learnt ones"


def test_a_draft_computes_what_the_model_does_but_for_bf16() -> None:
    """On weights that 4 bits hold, what is left are inputs, scales and zeros of 8 bits: 0.4 % of noise in a product."""
    model = four_bit_decoder(replace(CONFIG, rms_norm_eps=1e-3))
    batch, cache = ids(1, 12), KeyValueCache()
    with torch.no_grad():
        model(batch[:, :8], cache=cache)
        draft = drafting.draft_for(model, cache, 20)
        draft._take(cache)
        for i in range(8, 12):
            logits, exact = draft._logits(batch[:, i][0:1], i), model(batch[:, : i + 1])[:, -1]
            assert (logits - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("wrong", ["all", "second", "none"])
def test_wrong_guesses_change_nothing(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = four_bit_decoder(), ids(1, 7)
    plain = without_a_draft(model, prompt, 40)
    calls = iter(range(10_000))

    def logits(self: Draft, token: torch.Tensor, position: int) -> torch.Tensor:
        right = plain[0, position - 6]
        choice = (right + (wrong == "all" or (wrong == "second" and next(calls) % 2))) % CONFIG.vocab_size
        return nn.functional.one_hot(choice[None], CONFIG.vocab_size).float()

    monkeypatch.setattr(Draft, "_logits", logits)
    assert torch.equal(generate(model, prompt, 40), plain)


@pytest.mark.parametrize("config", DRAFTED, ids=lambda config: type(config).__name__)
def test_adapters_of_low_rank_are_drafted(config: AdapterConfig, guesses: dict[str, int]) -> None:
    model = perturb(inject(four_bit_decoder(), config)).eval()
    base = without_a_draft(four_bit_decoder(), ids(1, 7), 40)
    assert not torch.equal(without_a_draft(model, ids(1, 7), 40), base), "the adapter does nothing"
    check_same(model)
    assert guesses["right"] > 0.5 * guesses["made"] > 0
    with adapters_disabled(model):
        assert torch.equal(generate(model, ids(1, 7), 40), base)
    check_same(model)


@pytest.mark.parametrize("config", NOT_DRAFTED, ids=lambda config: type(config).__name__)
def test_other_adapters_are_generated_without(config: AdapterConfig, guesses: dict[str, int]) -> None:
    model = perturb(inject(four_bit_decoder(), config)).eval()
    check_same(model)
    assert not guesses["made"]


def test_adapters_of_several(tmp_path, guesses: dict[str, int]) -> None:
    folders, texts = {}, {}
    for name, targets in {"a": ("q_proj", "up_proj"), "b": ("v_proj",)}.items():
        config = LoRAConfig(rank=4, alpha=20, targets=targets)
        model = perturb(inject(four_bit_decoder(), config)).eval()
        folders[name] = save_adapter(model, config, tmp_path / name)
        texts[name] = without_a_draft(model, ids(1, 7), 30)
    model = load_adapters(four_bit_decoder(), folders).eval()
    for name, text in texts.items():
        with using(model, name):
            assert torch.equal(generate(model, ids(1, 7), 30), text)
    assert torch.equal(generate(model, ids(1, 7), 30), without_a_draft(four_bit_decoder(), ids(1, 7), 30))
    drafted = guesses["made"]
    assert drafted
    for which in ({"a": 0.5, "b": 1.0}, ["a"]):
        with using(model, which):
            check_same(model)
    assert guesses["made"] == drafted, "sums and mixed batches are no product of low rank"
    with using(model, ["a", None]):
        mixed = generate(model, ids(1, 7).expand(2, -1), 30)
    assert torch.equal(mixed[:1], texts["a"])


def test_it_stops_at_the_end_token(guesses: dict[str, int]) -> None:
    model, prompt = four_bit_decoder(), ids(1, 7)
    free = without_a_draft(model, prompt, 40)
    for eos in free[0, 1:20:3].tolist():
        end = int((free[0] == eos).nonzero()[0]) + 1
        assert torch.equal(generate(model, prompt, 40, eos_id=eos), free[:, :end])
    assert guesses["made"]


def test_every_length_and_the_longest_text() -> None:
    model, prompt = four_bit_decoder(), ids(1, 7)
    whole = without_a_draft(model, prompt, 58)
    for length in (0, 1, 2, 16, 17, 18, 32, 33, 34, 58):  # 7 + 58 − 1 are all 64 positions
        assert torch.equal(generate(model, prompt, length), whole[:, :length])
    with pytest.raises(ValueError, match="65 tokens; this model takes at most 64"):
        generate(model, prompt, 59)


def hooked(model: Decoder) -> Decoder:
    model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: 0.5 * output)
    return model


def patched(model: Decoder) -> Decoder:
    mlp = model.model.layers[1].mlp
    forward = mlp.forward
    mlp.forward = lambda x: 0.5 * forward(x)
    return model


def of_a_subclass(model: Decoder) -> Decoder:
    class Half(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.5 * super().forward(x)

    half = Half(96, 160, bias=False)
    half.weight = model.model.layers[1].mlp.up_proj.weight
    model.model.layers[1].mlp.up_proj = half
    return model


def with_dropout(model: Decoder) -> Decoder:
    return inject(model, LoRAConfig(rank=2, dropout=0.5)).train()


@pytest.mark.parametrize(
    "change",
    [
        hooked,
        patched,
        of_a_subclass,
        with_dropout,
        lambda model: model.double(),
        lambda model: model.bfloat16(),
        lambda model: quantize_model(model),
        lambda model: quantize_model(model, layer=FakeQuantizedLinear, bits=4),
    ],
)
def test_what_a_draft_does_not_know_is_generated_without(
    change: Callable[[Decoder], Decoder], guesses: dict[str, int]
) -> None:
    model = change(four_bit_decoder())
    torch.manual_seed(0)
    plain = without_a_draft(model, ids(1, 7), 40)
    torch.manual_seed(0)
    assert torch.equal(generate(model, ids(1, 7), 40), plain)
    assert not guesses["made"]


@pytest.mark.parametrize("case", ["several rows", "small model", "autocast", "processor", "short"])
def test_where_a_draft_does_not_help(case: str, guesses: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    if case == "small model":
        monkeypatch.undo()
    if case == "processor":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with torch.autocast("cpu") if case == "autocast" else nullcontext():
        generate(four_bit_decoder(), ids(2 if case == "several rows" else 1, 7), 9 if case == "short" else 40)
    assert not guesses["made"]


# --- what is kept ---


CHANGES: list[Callable[[Decoder], object]] = [
    lambda model: model.model.layers[0].mlp.up_proj.weight.mul_(-1),
    lambda model: setattr(model.model.layers[0].mlp.up_proj, "weight", nn.Parameter(torch.randn(160, 96))),
    lambda model: setattr(model.model.layers[0].mlp, "up_proj", nn.Linear(96, 160, bias=False)),
    lambda model: model.load_state_dict(four_bit_decoder(seed=5).state_dict()),
    lambda model: merge(perturb(inject(model, LoRAConfig(rank=2, alpha=20)))),
    lambda model: model.model.norm.weight.neg_(),
    lambda model: setattr(model.model.layers[0].mlp.up_proj.weight, "data", torch.randn(160, 96)),
    lambda model: [parameter.data.normal_(std=0.2) for parameter in model.parameters()],  # leaves no trace
]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_count_at_once(change: Callable[[Decoder], object], guesses: dict[str, int]) -> None:
    model = four_bit_decoder()
    before = generate(model, ids(1, 7), 40)
    assert generate(model, ids(1, 7), 40).equal(before)
    with torch.no_grad():
        change(model)
    plain = without_a_draft(model, ids(1, 7), 40)
    assert not torch.equal(plain, before)
    assert torch.equal(generate(model, ids(1, 7), 40), plain)
    guesses.update(made=0, right=0)
    assert torch.equal(generate(model, ids(1, 7), 40), plain)
    # new weights need not lie on a grid of 4 bits; a draft of other weights is right once in 101 tokens
    assert guesses["right"] > 0.1 * guesses["made"], "the second time its draft is up to date, traces or not"


def test_training_between_two_texts(guesses: dict[str, int]) -> None:
    """One adapter's step, then one of all weights; the codes of frozen weights stay."""
    model = perturb(inject(four_bit_decoder(), LoRAConfig(rank=2, alpha=20)))
    for everything in (False, True):
        model.requires_grad_(True) if everything else None
        generate(model, ids(1, 7), 40)
        codes = Codes._of_models[model]
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
        model(ids(1, 20)).logsumexp(-1).mean().backward()
        optimizer.step()
        check_same(model)
        assert (Codes._of_models[model] is codes) is not everything


def test_codes_go_with_their_model() -> None:
    model = four_bit_decoder()
    generate(model, ids(1, 7), 40)
    kept = weakref.ref(Codes._of_models[model])
    assert copy.deepcopy(model) not in Codes._of_models
    del model
    gc.collect()
    assert kept() is None


def test_codes_take_five_bits_a_weight_and_round_to_half_a_step() -> None:
    model = four_bit_decoder()
    generate(model, ids(1, 7), 40)
    codes = Codes._of_models[model]
    rows = [3 * (96 + 2 * 32 + 96 + 320), 3 * 96, 128]  # 101 rows of the head come in tiles of 64, 160 = 96 + 2 · 32
    weights = rows[0] * 96 + rows[1] * 160 + rows[2] * 96
    padded = 3 * (32 * 96 + 32 * 96 + 32 * 160)  # 160 rows to 192, twice 96 to 128
    assert sum(part.nbytes for matrix in codes.matrices for part in matrix) == (weights + padded) * 5 // 8
    attention = model.model.layers[0].self_attn
    weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    matrix, scales = codes.matrices[0]
    unit = torch.eye(96, dtype=torch.bfloat16)
    read = torch.ops.aten._weight_int4pack_mm_for_cpu(unit, matrix, 32, scales)[:, :160].float().T
    step = scales[:, :160, 0].float().T.repeat_interleave(32, dim=1)
    assert ((read - weight).abs() <= 0.5 * step + 0.01 * weight.abs() + 0.05 * step).all()
    matrix, scales = Codes([[nn.Parameter(torch.full((3, 32), 0.5))]]).matrices[0]
    assert scales.isfinite().all()
    read = torch.ops.aten._weight_int4pack_mm_for_cpu(torch.ones(1, 32).bfloat16(), matrix, 32, scales)
    assert torch.equal(read[0, :3], torch.full((3,), 16.0).bfloat16()), "a block of equal weights"


def test_tokens_come_one_by_one() -> None:
    model, prompt = four_bit_decoder(), ids(1, 7)
    steps = generate_steps(model, prompt, 40)
    assert isinstance(steps, Iterator)
    first = next(steps)
    assert torch.is_grad_enabled(), "what comes between two tokens may train"
    assert first.shape == (1, 1)
    assert torch.equal(torch.cat([first, *steps], dim=1), generate(model, prompt, 40))
