"""DPO and group advantages: against the formulas in float64, TRL's words for them, and what must hold at the start."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from peft_lessons import (
    LoRAConfig,
    adapters_disabled,
    answer_log_probabilities,
    dpo_loss,
    group_advantages,
    group_policy_losses,
    inject,
    kl_from_reference,
    policy_losses,
    preference_losses,
)
from peft_lessons.models import load_tiny_gpt
from peft_lessons.preference import divergence, token_log_probabilities
from peft_lessons.training import padded, train

BETA = 0.3


def pairs() -> list[torch.Tensor]:
    """A batch as `preference_losses` takes it: chosen ids and labels, rejected ids and labels."""
    _, tokenizer = load_tiny_gpt()
    prompts = [tokenizer.encode(text) for text in ("It was", "She did not")]
    chosen = [(prompt, tokenizer.encode(text)) for prompt, text in zip(prompts, (" a truth", " know him"), strict=True)]
    rejected = [
        (prompt, tokenizer.encode(text)) for prompt, text in zip(prompts, (" of of of of", " B B"), strict=True)
    ]
    return [*padded(chosen, pad_id=0), *padded(rejected, pad_id=0)]


def adapted(std: float = 0.05) -> nn.Module:
    model = inject(load_tiny_gpt()[0], LoRAConfig(rank=4))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name and std:
            nn.init.normal_(parameter, std=std)
    return model


@torch.no_grad()
def test_log_probabilities_are_sums_over_the_answers_tokens() -> None:
    model = adapted()
    ids, labels, _, _ = pairs()
    scores = model(ids).log_softmax(-1)
    for row in range(len(ids)):
        places = [t for t in range(1, ids.shape[1]) if labels[row, t] != -100]
        expected = sum(scores[row, t - 1, labels[row, t]] for t in places)
        assert answer_log_probabilities(model, ids, labels)[row] == pytest.approx(float(expected), abs=1e-4)
    nothing = torch.full_like(labels, -100)
    assert answer_log_probabilities(model, ids, torch.stack([labels[0], nothing[0]]))[1] == 0


def test_the_loss_and_its_gradient_equal_the_formula_in_float64() -> None:
    torch.manual_seed(0)
    given = [(20 * torch.randn(8, dtype=torch.float64) - 40).requires_grad_() for _ in range(4)]
    losses = dpo_loss(*given, beta=BETA)
    chosen, rejected, reference_chosen, reference_rejected = (one.exp() for one in given)
    ratio = (chosen / reference_chosen) ** BETA / (rejected / reference_rejected) ** BETA
    expected = -(ratio / (1 + ratio)).log()  # σ(log x) = x / (1 + x)
    assert torch.allclose(losses, expected, rtol=1e-9)
    for ours, theirs in zip(
        torch.autograd.grad(losses.sum(), given), torch.autograd.grad(expected.sum(), given), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-6)
    assert torch.autograd.gradcheck(lambda *tensors: dpo_loss(*tensors, beta=BETA), given)


def test_trls_formula() -> None:
    """`loss_type="sigmoid"` without label smoothing, in TRL's order: difference of the ratios of each model."""
    torch.manual_seed(0)
    chosen, rejected, reference_chosen, reference_rejected = torch.randn(4, 5) * 10
    logits = (chosen - rejected) - (reference_chosen - reference_rejected)
    expected = F.binary_cross_entropy_with_logits(BETA * logits, torch.ones(5), reduction="none")
    assert torch.allclose(dpo_loss(chosen, rejected, reference_chosen, reference_rejected, BETA), expected, atol=1e-6)


def test_at_the_start_it_is_ln_2_and_the_base_is_the_reference() -> None:
    assert torch.allclose(preference_losses(adapted(std=0), *pairs()), torch.full((2,), math.log(2)))
    model = adapted()
    with adapters_disabled(model), torch.no_grad():
        references = [answer_log_probabilities(model, *part) for part in (pairs()[:2], pairs()[2:])]
    policy = [answer_log_probabilities(model, *part) for part in (pairs()[:2], pairs()[2:])]
    assert torch.allclose(preference_losses(model, *pairs(), beta=BETA), dpo_loss(*policy, *references, beta=BETA))
    with pytest.raises(ValueError, match="no adapters"):
        preference_losses(load_tiny_gpt()[0], *pairs())


def test_training_parts_the_pair_and_gives_the_reference_no_gradient() -> None:
    model = adapted(std=0)
    history = train(model, [pairs()] * 12, steps=12, learning_rate=3e-3, loss=preference_losses)
    assert history.losses[0] == pytest.approx(math.log(2)) and history.losses[-1] < 0.6
    with torch.no_grad():
        now = answer_log_probabilities(model, *pairs()[:2]) - answer_log_probabilities(model, *pairs()[2:])
        with adapters_disabled(model):
            before = answer_log_probabilities(model, *pairs()[:2]) - answer_log_probabilities(model, *pairs()[2:])
    assert (now > before).all()


def test_advantages_are_within_a_group() -> None:
    torch.manual_seed(0)
    rewards = torch.rand(5, 8, dtype=torch.float64)
    rewards[2] = 0.7
    advantages = group_advantages(rewards)
    assert torch.allclose(advantages.sum(1), torch.zeros(5, dtype=torch.float64), atol=1e-12)
    assert (advantages[2].abs() < 1e-15).all()
    assert torch.allclose(advantages[0, 3], rewards[0, 3] - sum(rewards[0]) / 8)
    assert torch.allclose(group_advantages(3 * rewards), 3 * advantages), "not divided by the standard deviation"


def test_log_probabilities_of_other_shapes_are_refused():
    """Torch would spread one number over all pairs."""
    one, four = torch.zeros(1), torch.zeros(4)
    with pytest.raises(ValueError, match=r"one shape, \(pairs,\); got .*\(1,\)"):
        dpo_loss(four, one, four, four)


@pytest.mark.parametrize("rewards", [torch.ones(4), torch.ones(2, 2, dtype=torch.long)])
def test_rewards_are_floats_a_row_a_question(rewards):
    with pytest.raises(ValueError, match=r"\(questions, answers\)"):
        group_advantages(rewards)


@torch.no_grad()
def test_divergence_from_the_reference_is_the_sum_over_the_vocabulary() -> None:
    """Of the model that is switched on from the one that is switched off, in this order."""
    model = adapted(std=0.2)
    ids, labels, _, _ = pairs()
    with adapters_disabled(model):
        before = model(ids).double().log_softmax(-1)[:, :-1][labels[:, 1:] != -100]
    now = model(ids).double().log_softmax(-1)[:, :-1][labels[:, 1:] != -100]
    expected = (now.exp() * (now - before)).sum(-1)
    other_order = (before.exp() * (before - now)).sum(-1)
    assert torch.allclose(kl_from_reference(model, ids, labels).double(), expected, atol=1e-4)
    assert (expected - other_order).abs().max() > 1e-2, "a test that cannot tell the two apart shows little"
    given = kl_from_reference(model, ids, labels, load_tiny_gpt()[0])
    assert torch.allclose(given.double(), expected, atol=1e-4)
    assert kl_from_reference(adapted(std=0), ids, labels).abs().max() < 1e-6
    with pytest.raises(ValueError, match="no adapters"):
        kl_from_reference(load_tiny_gpt()[0], ids, labels)


def test_the_gradient_of_a_policy_s_losses_is_that_of_the_formula_in_float64() -> None:
    """For logits z: −A (1[y] − π), and π (log π/π_ref − KL) of the divergence, worked out by hand."""
    torch.manual_seed(0)
    logits = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    before = torch.randn(6, 9, dtype=torch.float64).log_softmax(-1)
    sampled, advantages = torch.randint(9, (6,)), torch.randn(6, dtype=torch.float64)
    losses = policy_losses(logits.log_softmax(-1), before, sampled, advantages, BETA)
    policy = logits.detach().softmax(-1)
    ratio = policy.log() - before
    kl = (policy * ratio).sum(-1, keepdim=True)
    assert torch.allclose(losses, -advantages + BETA * kl[:, 0]), "π/π_old is 1"
    taken = F.one_hot(sampled, 9) - policy
    expected = -advantages[:, None] * taken + BETA * policy * (ratio - kl)
    assert torch.allclose(torch.autograd.grad(losses.sum(), logits)[0], expected)


def test_an_answer_s_advantage_stands_at_each_of_its_tokens() -> None:
    model = adapted()
    ids, labels, _, _ = pairs()
    labels[0, 2] = -100  # so that the two answers differ in length
    counts = (labels[:, 1:] != -100).sum(1)
    assert counts[0] != counts[1]
    losses = group_policy_losses(model, ids, labels, torch.tensor([0.5, -2.0]))
    assert losses.tolist() == [-0.5] * int(counts[0]) + [2.0] * int(counts[1])
    weight = model.model.layers[0].self_attn.q_proj.lora_A
    scores = answer_log_probabilities(model, ids, labels)
    expected = torch.autograd.grad(-(0.5 * scores[0] - 2.0 * scores[1]), weight)[0]
    assert torch.allclose(torch.autograd.grad(losses.sum(), weight)[0], expected, rtol=1e-3, atol=1e-4)


def test_training_makes_what_earned_more_likelier_and_the_divergence_holds_it_back() -> None:
    def trained(beta: float) -> tuple[float, float]:
        model = adapted(std=0)
        ids, labels, _, _ = pairs()
        batch = (ids, labels, torch.tensor([1.0, -1.0]))
        with torch.no_grad():
            start = answer_log_probabilities(model, ids, labels)
        train(
            model,
            [batch] * 8,
            steps=8,
            learning_rate=3e-3,
            loss=lambda *given: group_policy_losses(*given, beta=beta),
        )
        with torch.no_grad():
            moved = answer_log_probabilities(model, ids, labels) - start
            return (moved[0] - moved[1]).item(), kl_from_reference(model, ids, labels).mean().item()

    (free, far), (held, near) = trained(0.0), trained(10.0)
    assert free > held > 0 and near < far / 2


def test_what_does_not_fit_is_refused() -> None:
    ids, labels, _, _ = pairs()
    with pytest.raises(ValueError, match=r"2 answers need an advantage each.*\(1,\)"):
        group_policy_losses(adapted(), ids, labels, torch.ones(1))
    scores = torch.zeros(3, 5)
    with pytest.raises(ValueError, match=r"\(3, 5\), \(3, 5\), \(3,\), \(1,\)"):
        policy_losses(scores, scores, torch.zeros(3, dtype=torch.long), torch.ones(1))


@torch.no_grad()
def test_log_distributions_are_those_at_the_places_that_are_scored() -> None:
    model = adapted()
    ids, labels, _, _ = pairs()
    expected = model(ids).log_softmax(-1)[:, :-1][labels[:, 1:] != -100]
    assert torch.allclose(token_log_probabilities(model, ids, labels), expected, atol=1e-4)
    assert divergence(expected, expected).abs().max() == 0
