"""The training loop and its batches."""

import itertools
import math
import random
import weakref
from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons import AdaLoRAConfig, LoRAConfig, RankAllocator, inject, lora_plus_groups
from peft_lessons.methods.lora import LoRALinear
from peft_lessons.models.decoder import Decoder, DecoderConfig
from peft_lessons.training import (
    IGNORED,
    _FrozenHeadLosses,
    consecutive_windows,
    evaluate_loss,
    language_model_loss,
    learning_rate_factor,
    padded,
    shuffled,
    train,
    windows,
)

VOCABULARY = 11


class Bigram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(input_ids))


def bigram() -> Bigram:
    torch.manual_seed(0)
    return Bigram()


TEXT = [i % VOCABULARY for i in range(500)]


def run(model: nn.Module, **settings):
    batches = windows(TEXT, batch_size=4, length=12, seed=0)
    return train(model, batches, **{"steps": 40, "learning_rate": 0.05, **settings})


def test_learns_and_reports() -> None:
    model = bigram()
    held_out = consecutive_windows(TEXT[:120], batch_size=2, length=12)
    history = run(model, evaluate=lambda m: evaluate_loss(m, held_out), evaluate_every=15)
    assert [step for step, _ in history.evaluations] == [0, 15, 30, 40]
    assert history.evaluations[0][1] == pytest.approx(math.log(VOCABULARY), abs=0.5)
    assert history.evaluations[-1][1] < 0.05
    assert len(history.losses) == 40
    assert history.seconds > 0
    assert not history.interrupted
    assert not model.training


def test_same_seed_same_losses() -> None:
    def losses(seed: int) -> list[float]:
        model = inject(bigram(), LoRAConfig(rank=4, dropout=0.3, targets=("head",)))
        return run(model, seed=seed).losses

    first = losses(1)
    assert first == losses(1)
    assert first != losses(2)


def test_only_the_adapter_moves() -> None:
    model = inject(bigram(), LoRAConfig(rank=4, targets=("head",)))
    before = {name: p.clone() for name, p in model.named_parameters()}
    run(model)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"head.lora_A", "head.lora_B"}


def test_an_interrupt_keeps_what_was_learnt() -> None:
    model = bigram()
    before = model.head.weight.clone()

    def stop_after(steps):
        for step in steps:
            if step == 5:
                raise KeyboardInterrupt
            yield step

    history = run(model, bar=stop_after, evaluate=lambda m: 1.0)
    assert history.interrupted
    assert len(history.losses) == 5
    assert history.evaluations[-1][0] == 5
    assert not torch.equal(model.head.weight, before)
    assert not model.training


def test_no_gradient_enters_or_is_left() -> None:
    def weights(stale: float | None) -> torch.Tensor:
        model = bigram()
        if stale:
            model.head.weight.grad = torch.full_like(model.head.weight, stale)
        run(model, steps=3)
        assert all(parameter.grad is None for parameter in model.parameters())
        return model.head.weight

    assert torch.equal(weights(stale=None), weights(stale=1e3))


def test_a_completed_step_is_counted(monkeypatch) -> None:
    """The interrupt comes right after the optimizer's third step."""
    original, calls = torch.optim.AdamW.step, []

    def step(optimizer, *args, **kwargs):
        original(optimizer, *args, **kwargs)
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    model = bigram()
    history = run(model)
    assert history.interrupted
    assert len(history.losses) == 3
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("interrupted_call", "steps"), [(1, 0), (2, 4)], ids=["first", "final"])
def test_an_interrupted_evaluation_keeps_the_history(interrupted_call: int, steps: int) -> None:
    calls = []

    def evaluate(_: nn.Module) -> float:
        calls.append(None)
        if len(calls) == interrupted_call:
            raise KeyboardInterrupt
        return 1.0

    model = bigram()
    history = run(model, steps=4, evaluate=evaluate)
    assert history.interrupted
    assert len(history.losses) == steps
    assert history.evaluations == [(0, 1.0)]
    assert not model.training


def test_an_error_leaves_no_gradients_and_eval_mode() -> None:
    model = bigram().train()
    with pytest.raises(ValueError, match="ran out after 1 of 2 steps"):
        train(model, [(torch.zeros(1, 3).long(),) * 2], steps=2, learning_rate=0.1)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_labels_that_are_all_ignored() -> None:
    input_ids, ignored = torch.zeros(2, 3).long(), torch.full((2, 3), IGNORED)
    ignored[:, 0] = 4  # no token predicts the first
    with pytest.raises(ValueError, match=r"nothing to score: every label .* is ignored \(-100\)"):
        train(bigram(), [(input_ids, ignored)], steps=1, learning_rate=0.1)
    with pytest.raises(ValueError, match="nothing to score"):
        evaluate_loss(bigram(), [(input_ids, ignored)])
    assert math.isfinite(evaluate_loss(bigram(), [(input_ids, ignored), (input_ids, input_ids)]))


def test_gradients_are_clipped() -> None:
    """With plain SGD's first step hidden by Adam, look at what reaches the optimizer."""
    model = bigram()
    seen = []
    model.head.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p))
    original = torch.optim.AdamW.step

    def step(optimizer, *args, **kwargs):
        norms = [p.grad.norm() for group in optimizer.param_groups for p in group["params"]]
        assert torch.stack(norms).norm() <= 0.0101
        return original(optimizer, *args, **kwargs)

    torch.optim.AdamW.step = step
    try:
        run(model, max_norm=0.01, steps=3)
    finally:
        torch.optim.AdamW.step = original
    assert len(seen) == 3


def test_refusals() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        run(bigram().requires_grad_(False))
    with pytest.raises(ValueError, match="ran out after 1 of 2 steps"):
        train(bigram(), [(torch.zeros(1, 3).long(),) * 2], steps=2, learning_rate=0.1)
    broken = bigram()
    nn.init.constant_(broken.head.bias, math.nan)
    with pytest.raises(ValueError, match="the loss is nan at step 0"):
        run(broken)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": -3}, ValueError, "steps must be at least 1, got -3"),
        ({"steps": 2.5}, TypeError, "steps is a whole number, got 2.5"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate must be positive and finite, got nan"),
        ({"learning_rate": -0.1}, ValueError, "learning_rate must be positive and finite, got -0.1"),
        ({"learning_rate": "1e-4"}, TypeError, "learning_rate is a number, got '1e-4'"),
        ({"warmup": 10}, ValueError, r"warmup is a share of the steps, from 0 to 1; got 10"),
        ({"max_norm": 0}, ValueError, r"max_norm must be positive .*, got 0"),
        ({"max_norm": math.nan}, ValueError, r"max_norm must be positive .*, got nan"),
        ({"weight_decay": math.nan}, ValueError, r"weight_decay.* nan"),
        ({"accumulate": 0}, ValueError, "accumulate must be at least 1, got 0"),
        ({"evaluate_every": 0}, ValueError, "evaluate_every must be at least 1, got 0"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1, got 0"),
        ({"loss": lambda model, ids, labels: 3.0}, TypeError, "the loss must be a scalar tensor .*; got a float"),
        (
            {"loss": lambda model, ids, labels: model(ids)},
            TypeError,
            r"the loss must be a scalar tensor or one of \(labels,\); got a tensor of \(4, 12, 11\)",
        ),
    ],
)
def test_settings_that_make_no_sense(settings: dict, error: type[Exception], message: str) -> None:
    model = bigram()
    before = model.head.weight.clone()
    with pytest.raises(error, match=message):
        run(model, **settings)
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (5, "batches must be a list or a generator of batches; got 5"),
        (None, "batches must be a list or a generator of batches; got None"),
        (["text"], r"a batch is a tuple \(input_ids, labels\), or a mapping with both; got a str"),
        ([torch.zeros(2, 3).long()], r"a batch is a tuple .*; got a tensor of \(2, 3\)"),
        ([(torch.zeros(2, 3).long(),)], r"needs batches of input_ids and labels; this one has a tensor of \(2, 3\)"),
        ([{"input_ids": torch.zeros(2, 3).long()}], "needs batches of input_ids and labels; this one has input_ids"),
    ],
)
def test_what_is_no_batch(batches, message: str) -> None:
    model = bigram()
    with pytest.raises(TypeError, match=message):
        train(model, batches, steps=2, learning_rate=0.1)
    assert not model.training
    with pytest.raises(TypeError, match=message):
        evaluate_loss(bigram(), batches)


def test_nothing_to_evaluate() -> None:
    with pytest.raises(ValueError, match="nothing to score"):
        evaluate_loss(bigram(), [])


def broken_gradient(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    """A finite loss with a gradient of NaN to one weight: √x at x = 0, times 0."""
    return language_model_loss(model, input_ids, labels) + 0 * (model.head.bias * 0).square().sum().sqrt()


@pytest.mark.parametrize("good", [0, 3])
def test_a_gradient_that_is_not_finite_is_not_applied(good: int) -> None:
    model, reference = bigram(), bigram()

    def loss(*inputs) -> Tensor:
        calls.append(None)
        return (broken_gradient if len(calls) > good else language_model_loss)(*inputs)

    calls: list[None] = []
    message = rf"the gradient of head.bias \(1 of 3 in all\) is not finite at step {good}, and was not applied"
    with pytest.raises(ValueError, match=message):
        run(model, loss=loss, steps=40)

    def stop(steps):
        for step in steps:
            if step == good:
                raise KeyboardInterrupt
            yield step

    run(reference, bar=stop, steps=40)
    for mine, expected in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, expected)
        assert mine.grad is None
    assert not model.training


def test_a_norm_that_overflows_is_not_applied() -> None:
    """Each number of the gradient is finite, the square root of the sum of their squares is not."""
    model = bigram()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match="the gradient overflows at step 0, and was not applied"):
        run(model, loss=lambda model, ids, labels: 2e37 * model.head.weight.sum())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def unequal_batches() -> list[tuple[Tensor, Tensor]]:
    """Micro-batches of unequal rows and scored labels; one has nothing to score."""
    generator = torch.Generator().manual_seed(3)
    batches = []
    for rows, scored in [(1, 5), (3, 1), (2, 0), (2, 3)]:
        input_ids = torch.randint(VOCABULARY, (rows, 6), generator=generator)
        labels = torch.full_like(input_ids, IGNORED)
        labels[:, 6 - scored :] = input_ids[:, 6 - scored :]
        batches.append((input_ids, labels))
    return batches


def own_mean(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    """A scalar of one's own: the mean over the labels."""
    logits = model(input_ids)[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED)


def own_vector(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    scored = labels[:, 1:] != IGNORED
    return F.cross_entropy(model(input_ids)[:, :-1][scored], labels[:, 1:][scored], reduction="none")


@pytest.mark.parametrize("loss", [None, own_mean, own_vector])
def test_accumulated_batches_equal_the_large_one(loss) -> None:
    """Also where batches score unequally many labels, so that the mean of their means is another number."""
    micro = unequal_batches()
    large = tuple(torch.cat(parts) for parts in zip(*micro, strict=True))
    split, whole = bigram().double(), bigram().double()
    settings = {"steps": 3, "learning_rate": 1e-2, "bar": iter}
    first = train(split, micro * 3, accumulate=len(micro), loss=loss, **settings)
    expected = train(whole, [large] * 3, loss=own_mean, **settings)
    # the course's own loss is taken in fp32
    tolerance = {"rtol": 1e-5, "atol": 1e-7} if loss is None else {"rtol": 1e-12, "atol": 1e-13}
    assert first.losses == pytest.approx(expected.losses, rel=tolerance["rtol"])
    for mine, other in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, other, **tolerance)
    means = [own_mean(whole, *batch).item() for batch in micro if (batch[1] != IGNORED).any()]
    assert abs(sum(means) / len(means) - own_mean(whole, *large).item()) > 1e-2


def test_accumulation_holds_one_batch_and_one_set_of_gradients() -> None:
    """While a micro-batch is made, the graph of the one before it is gone."""
    alive: list[weakref.ref] = []

    def loss(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
        assert not any(reference() is not None for reference in alive)
        logits = model(input_ids)
        alive.append(weakref.ref(logits))
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    run(bigram(), accumulate=4, steps=2, loss=loss)
    assert len(alive) == 8


def test_too_few_batches_for_the_steps_of_several() -> None:
    with pytest.raises(ValueError, match="ran out after 2 of 3 steps"):
        train(bigram(), [(torch.zeros(1, 3).long(),) * 2] * 7, steps=3, accumulate=3, learning_rate=0.1)


def test_a_mean_over_batches_of_your_own_loss_is_over_labels() -> None:
    micro = [batch for batch in unequal_batches() if (batch[1] != IGNORED).any()]
    expected = evaluate_loss(bigram(), micro)
    assert evaluate_loss(bigram(), micro, loss=own_mean) == pytest.approx(expected, rel=1e-6)
    assert evaluate_loss(bigram(), iter(micro), loss=own_vector) == pytest.approx(expected, rel=1e-6)


def test_a_mask_reaches_the_decoder() -> None:
    """Padding on the left: with the mask, the loss of the row without its padding."""
    model, (row, _) = decoder(), scored_batch()
    padded_row = torch.cat((torch.zeros(3, 2).long(), row), dim=1)
    mask = torch.cat((torch.zeros(3, 2), torch.ones(3, 6)), dim=1).long()
    labels = padded_row.masked_fill(mask == 0, IGNORED)
    labels[:, 2] = IGNORED  # the first token of a row follows nothing
    batch = {"input_ids": padded_row, "attention_mask": mask, "labels": labels}
    assert evaluate_loss(model, [batch]) == pytest.approx(evaluate_loss(model, [(row, row)]), rel=1e-5)
    assert evaluate_loss(model, [(padded_row, labels)]) != pytest.approx(evaluate_loss(model, [(row, row)]), rel=1e-5)


def test_learning_rate_schedule() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert learning_rate_factor(0, 1, 0.1) == 1


def test_loss_is_the_shifted_cross_entropy_over_scored_tokens() -> None:
    model = bigram()
    input_ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    labels = torch.tensor([[IGNORED, IGNORED, 3, 4], [IGNORED, 6, IGNORED, IGNORED]])
    logits = model(input_ids)
    by_hand = -sum(F.log_softmax(logits[r, c - 1], -1)[labels[r, c]] for r, c in [(0, 2), (0, 3), (1, 1)]) / 3
    torch.testing.assert_close(language_model_loss(model, input_ids, labels), by_hand)
    two_batches = [(input_ids[:1], labels[:1]), (input_ids[1:], labels[1:])]
    assert evaluate_loss(model, two_batches) == pytest.approx(by_hand.item(), rel=1e-6)


def test_windows() -> None:
    first, again = (next(windows(TEXT, batch_size=3, length=7, seed=5))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (3, 7)
    assert ((first[:, 1:] - first[:, :-1]) % VOCABULARY == 1).all()
    ordered = consecutive_windows(range(23), batch_size=2, length=5)
    assert torch.cat([batch for batch, _ in ordered]).flatten().tolist() == list(range(20))
    with pytest.raises(ValueError, match="3 tokens, too few for windows of 7"):
        next(windows([1, 2, 3], batch_size=1, length=7, seed=0))
    with pytest.raises(ValueError, match="too few"):
        consecutive_windows([1], batch_size=1, length=2)


def test_padding_and_labels() -> None:
    input_ids, labels = padded([([1, 2], [3]), ([4], [5, 6, 7])], pad_id=9)
    assert input_ids.tolist() == [[1, 2, 3, 9], [4, 5, 6, 7]]
    assert labels.tolist() == [[IGNORED, IGNORED, 3, IGNORED], [IGNORED, 5, 6, 7]]


def test_shuffled_sees_each_example_once_a_pass() -> None:
    examples = [([i], [i]) for i in range(6)]
    batches = shuffled(examples, batch_size=2, pad_id=0, seed=3)
    passes = [[next(batches)[0][:, 0].tolist() for _ in range(3)] for _ in range(2)]
    assert all(sorted(chain.from_iterable(one)) == list(range(6)) for one in passes)
    assert passes[0] != passes[1]
    with pytest.raises(ValueError, match="6 examples cannot fill a batch of 7"):
        next(shuffled(examples, batch_size=7, pad_id=0, seed=0))


def test_shuffled_brings_together_examples_of_like_length() -> None:
    """Each pass still takes every example at most once and is fixed by the seed, while little is padded."""
    rng = random.Random(0)
    examples = [([i], [1] * rng.randint(10, 64)) for i in range(403)]  # 100 batches of 4, and 3 left out
    texts = sum(1 + len(answer) for _, answer in examples) / len(examples) * 400

    def one_pass(seed: int) -> list[Tensor]:
        return [
            input_ids for input_ids, _ in itertools.islice(shuffled(examples, batch_size=4, pad_id=0, seed=seed), 100)
        ]

    batches = one_pass(0)
    taken = torch.cat([input_ids[:, 0] for input_ids in batches]).tolist()
    assert len(set(taken)) == 400
    in_random_order = sum(padded(examples[i : i + 4], 0)[0].numel() for i in range(0, 400, 4))
    assert texts / in_random_order < 0.8
    assert texts / sum(input_ids.numel() for input_ids in batches) > 0.93
    widths = [input_ids.shape[1] for input_ids in batches]
    steps = [b - a for a, b in itertools.pairwise(widths)]
    assert 0.3 < sum(step > 0 for step in steps) / len(steps) < 0.7  # neither growing nor shrinking along the pass
    assert all(torch.equal(a, b) for a, b in zip(batches, one_pass(0), strict=True))
    assert [batch[:, 0].tolist() for batch in one_pass(1)] != [batch[:, 0].tolist() for batch in batches]


def test_the_callers_defaults_do_not_matter(tmp_path) -> None:
    """Of gradients, device and dtype."""
    examples = [([1, 2], [3, 4]), ([5], [6, 7, 8])]

    def made() -> list[tuple[Tensor, Tensor]]:
        return [
            next(shuffled(examples, batch_size=2, pad_id=0, seed=0)),
            *consecutive_windows(TEXT, batch_size=9, length=9),
        ]

    def learnt(**settings) -> list[float]:
        model = bigram()
        return [*run(model, steps=3, **settings).losses, evaluate_loss(model, made())]

    expected = learnt()
    model = bigram()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.no_grad(), torch.device("meta"):
            losses = [run(model, steps=3, checkpoint=tmp_path).losses for _ in range(2)][1]
            found = [*losses, evaluate_loss(model, made())]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected


DECODER = DecoderConfig(
    vocab_size=VOCABULARY,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)
SCORED = [(0, 3), (0, 4), (1, 1), (2, 5)]  # (row, column) of the labels below that are not ignored


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(DECODER)


def scored_batch() -> tuple[torch.Tensor, torch.Tensor]:
    input_ids = torch.randint(VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(0))
    labels = torch.full((3, 6), IGNORED)
    for row, column in SCORED:
        labels[row, column] = input_ids[row, column]
    return input_ids, labels


def plain_loss(model: Decoder, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Every logit, then the cross-entropy: the formula that the decoder's shorter way has to equal."""
    logits = model(input_ids)[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)


@pytest.mark.parametrize("rows", [1, 2, 3, 128])
@pytest.mark.parametrize(
    "targets", [("q_proj", "up_proj"), ("v_proj", "lm_head"), None], ids=["frozen", "head", "full"]
)
def test_a_decoder_has_the_loss_and_gradients_of_the_plain_formula(targets, rows: int, monkeypatch) -> None:
    monkeypatch.setattr(_FrozenHeadLosses, "ROWS", rows)

    def run(loss) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model = decoder().double()
        if targets:
            inject(model, LoRAConfig(rank=2, targets=targets))
            torch.manual_seed(1)
            for layer in (module for module in model.modules() if isinstance(module, LoRALinear)):
                nn.init.normal_(layer.lora_B)
        value = loss(model, *scored_batch())
        value.backward()
        assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
        return value.detach(), [parameter.grad for parameter in model.parameters() if parameter.requires_grad]

    torch.testing.assert_close(run(language_model_loss), run(plain_loss), rtol=1e-5, atol=1e-7)  # the softmax is fp32


def test_the_head_sees_what_is_scored_and_a_few_rows_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(_FrozenHeadLosses, "ROWS", 3)
    model, seen = decoder(), []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    evaluate_loss(model, [scored_batch()])
    assert seen == [(3, 16), (1, 16)]
    model.model.embed_tokens.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    evaluate_loss(model, [scored_batch()])
    assert seen[2] == (3, 5)  # the last token predicts nothing


def test_a_frozen_head_keeps_no_logits_for_backward() -> None:
    model = inject(decoder(), LoRAConfig(rank=2, targets=("q_proj",)))
    packed: list[weakref.ref] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = language_model_loss(model, *scored_batch())
    kept = [tensor.shape for tensor in (reference() for reference in packed) if tensor is not None]
    assert value.requires_grad
    assert (len(SCORED), 16) in kept  # the gradient to the hidden states
    assert (len(SCORED), VOCABULARY) not in kept


def test_groups_have_their_own_learning_rates() -> None:
    """LoRA+ through the loop is AdamW on those groups by hand."""
    model, twin = (inject(bigram(), LoRAConfig(rank=4, targets=("head",))) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    run(model, steps=3, learning_rate=1e-3, groups=lora_plus_groups(model, 1e-3, ratio=8))
    optimizer = torch.optim.AdamW(lora_plus_groups(twin, 1e-3, ratio=8), weight_decay=0.0)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == [8e-3, 1e-3]
    for step, batch in zip(range(3), windows(TEXT, batch_size=4, length=12, seed=0), strict=False):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, 3, 0.1)
        optimizer.zero_grad()
        language_model_loss(twin, *batch).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
    for mine, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-7)


def test_after_each_step_ranks_are_allocated() -> None:
    config = AdaLoRAConfig(rank=6, target_rank=2, total_steps=12, warmup_steps=3, final_steps=2, targets=("head",))
    model = inject(bigram(), config)
    allocator, seen = RankAllocator(model), []

    def after(step: int) -> None:
        allocator.step(step)
        seen.append((step, sum(allocator.ranks)))

    run(model, steps=12, learning_rate=1e-2, after_step=after)
    assert [step for step, _ in seen] == list(range(1, 13))
    assert [ranks for _, ranks in seen[:3]] == [6, 6, 6]
    assert seen[-1] == (12, 2)
