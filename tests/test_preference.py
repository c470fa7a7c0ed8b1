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
    inject,
    preference_losses,
)
from peft_lessons.models import load_tiny_gpt
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
