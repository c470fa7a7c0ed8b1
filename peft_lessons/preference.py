"""What people prefer, and what a reward says: DPO (Rafailov et al. 2023, arXiv:2305.18290, Eq. 7), group advantages.

    L = −log σ(β [log π(y_w|x) / π_ref(y_w|x) − log π(y_l|x) / π_ref(y_l|x)])

y_w is the answer that was chosen, y_l the one that was rejected, log π(y|x) a sum over the answer's tokens, its end
included. π_ref is where training began: for an adapter that starts at zero, the model with its adapter switched off, so
that no second model lies in memory. At the start L is ln 2.

Group advantages are those of GRPO (Shao et al. 2024, arXiv:2402.03300, §4.1.2) without its division by the standard
deviation, which weighs easy and hard questions more than others (Liu et al. 2025, arXiv:2503.20783, §3.1).

A policy that learns from them is held near the reference by their Kullback-Leibler divergence, over the whole
vocabulary, where GRPO estimates it from the sampled token. With one step a batch of samples the policy is the one that
they were drawn from, so that the ratio of the two is 1 and nothing is clipped.

Left out: several steps on the same samples; for pairs a reference that is another adapter, which is right where the
adapter held more than zero at the start.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.adapters import adapters_disabled
from peft_lessons.models.decoder import Decoder
from peft_lessons.training import IGNORED, token_losses


def answer_log_probabilities(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    """log π(y|x) of each example, summed over the labels that are not ignored. int64 (batch, tokens) → (batch,).

    Raises:
        ValueError: when the shapes are not those of a language model.
        TypeError: for a model that returns no logits.

    Examples:
        >>> from peft_lessons import answer_log_probabilities
        >>> from peft_lessons.models import load_tiny_gpt
        >>> from peft_lessons.training import padded
        >>> model, tokenizer = load_tiny_gpt()
        >>> prompt, answer = tokenizer.encode("It was a"), tokenizer.encode(" truth")
        >>> answer_log_probabilities(model, *padded([(prompt, answer), (prompt, answer + answer)], pad_id=0)).shape
        torch.Size([2])
    """
    counts = (labels[:, 1:] != IGNORED).sum(1).tolist()
    return torch.stack([-losses.sum() for losses in token_losses(model, input_ids, labels).split(counts)])


def dpo_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float = 0.1
) -> Tensor:
    """L of each pair, (pairs,), from the log-probabilities of its answers under the model and under the reference.

    Raises:
        ValueError: when the four differ in shape.

    Examples:
        >>> import torch
        >>> from peft_lessons import dpo_loss
        >>> start = torch.tensor([-20.0]), torch.tensor([-30.0])
        >>> dpo_loss(*start, *start).exp()
        tensor([2.])
    """
    shapes = [tuple(of.shape) for of in (chosen, rejected, reference_chosen, reference_rejected)]
    if len(set(shapes)) > 1:
        raise ValueError(f"a pair has four log-probabilities, so these have one shape, (pairs,); got {shapes}")
    return -F.logsigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))


def preference_losses(
    model: nn.Module,
    chosen_ids: Tensor,
    chosen_labels: Tensor,
    rejected_ids: Tensor,
    rejected_labels: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """L of each pair, (pairs,), the reference being the model with its adapters switched off: a `loss` for `train`.

    Raises:
        ValueError: for a model without adapters, which has no reference, and as `answer_log_probabilities`.

    Examples:
        >>> import torch
        >>> from peft_lessons import LoRAConfig, inject, preference_losses
        >>> from peft_lessons.models import load_tiny_gpt
        >>> model = inject(load_tiny_gpt()[0], LoRAConfig(rank=2))
        >>> ids = torch.tensor([[1, 2, 3, 4]])
        >>> preference_losses(model, ids, ids, ids.flip(1), ids.flip(1)).exp()
        tensor([2.], grad_fn=<ExpBackward0>)
    """
    pairs = ((chosen_ids, chosen_labels), (rejected_ids, rejected_labels))
    with torch.no_grad(), adapters_disabled(model):
        reference_chosen, reference_rejected = (answer_log_probabilities(model, *answers) for answers in pairs)
    chosen, rejected = (answer_log_probabilities(model, *answers) for answers in pairs)
    return dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta)


def group_advantages(rewards: Tensor) -> Tensor:
    """How much better each answer is than its question's others: rewards (questions, answers) less their mean.

    Where all answers to a question earn the same, there is nothing to learn from it: all zeros.

    Raises:
        ValueError: for rewards of another shape, or whole numbers.

    Examples:
        >>> import torch
        >>> from peft_lessons import group_advantages
        >>> group_advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([[ 0.5000, -0.5000],
                [ 0.0000,  0.0000]])
    """
    if rewards.ndim != 2 or not rewards.is_floating_point():
        given = f"{rewards.dtype} of shape {tuple(rewards.shape)}"
        raise ValueError(f"rewards are floats of shape (questions, answers); got {given}")
    return rewards - rewards.mean(dim=1, keepdim=True)


def token_log_probabilities(model: Decoder, input_ids: Tensor, labels: Tensor) -> Tensor:
    """log π of every token of the vocabulary at each place that is scored, (scored, vocab_size).

    Examples:
        >>> import torch
        >>> from peft_lessons.preference import token_log_probabilities
        >>> from peft_lessons.models import load_tiny_gpt
        >>> ids = torch.tensor([[1, 2, 3, 4]])
        >>> token_log_probabilities(load_tiny_gpt()[0], ids, ids).shape
        torch.Size([3, 1024])
    """
    hidden = model.model(input_ids)[:, :-1][labels[:, 1:] != IGNORED]
    return model.lm_head(hidden).log_softmax(-1)


def divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """KL(wanted ‖ given) of two log-distributions over the vocabulary at each place, nats: (places,).

    Examples:
        >>> import torch
        >>> from peft_lessons.preference import divergence
        >>> certain, torn = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log()
        >>> divergence(torn, certain).exp()
        tensor([2.])
    """
    return F.kl_div(given, wanted, reduction="none", log_target=True).sum(-1)


def kl_from_reference(model: Decoder, input_ids: Tensor, labels: Tensor, reference: Decoder | None = None) -> Tensor:
    """KL(π ‖ π_ref) at each place that is scored, nats: (scored,).

    The reference is the model with its adapters switched off, unless another one is given, as for full fine-tuning.

    Raises:
        ValueError: for a model without adapters when no reference is given.

    Examples:
        >>> import torch
        >>> from peft_lessons import LoRAConfig, inject, kl_from_reference
        >>> from peft_lessons.models import load_tiny_gpt
        >>> model = inject(load_tiny_gpt()[0], LoRAConfig(rank=2))
        >>> ids = torch.tensor([[1, 2, 3, 4]])
        >>> kl_from_reference(model, ids, ids).abs().max() < 1e-6
        tensor(True)
    """
    before = _reference_log_probabilities(model, input_ids, labels, reference)
    return divergence(before, token_log_probabilities(model, input_ids, labels))


def policy_losses(scores: Tensor, before: Tensor, sampled: Tensor, advantages: Tensor, beta: float = 0.0) -> Tensor:
    """−A π/π_old + β KL(π ‖ π_ref) of each sampled token, (tokens,), π_old being π as it is now, without its gradient.

    `scores` and `before` are log-distributions of the policy and of the reference, (tokens, vocab_size), `sampled` the
    ids that were drawn, `advantages` those of the answers that they stand in, both (tokens,). The gradient is
    −A ∇ log π(y_t) + β ∇ KL.

    Raises:
        ValueError: when the shapes do not fit.

    Examples:
        >>> import torch
        >>> from peft_lessons import policy_losses
        >>> scores = torch.tensor([[0.5, 0.5]]).log().requires_grad_()
        >>> policy_losses(scores, scores.detach(), torch.tensor([1]), torch.tensor([2.0])).sum().backward()
        >>> scores.grad
        tensor([[ 0., -2.]])
    """
    shapes = [tuple(of.shape) for of in (scores, before, sampled, advantages)]
    if scores.ndim != 2 or shapes[1:] != [shapes[0], shapes[0][:1], shapes[0][:1]]:
        raise ValueError(
            "scores and those before are (tokens, vocab_size), sampled ids and advantages (tokens,); got "
            f"{', '.join(map(str, shapes))}"
        )
    taken = scores.gather(-1, sampled[:, None])[:, 0]
    return -advantages * (taken - taken.detach()).exp() + beta * divergence(before, scores)


def group_policy_losses(
    model: Decoder,
    input_ids: Tensor,
    labels: Tensor,
    advantages: Tensor,
    beta: float = 0.0,
    reference: Decoder | None = None,
) -> Tensor:
    """`policy_losses` of each sampled token, (tokens,), from the advantages of the answers, (answers,): for `train`.

    Samples are scored where they have a label. The mean of the losses weighs every token alike; where answers differ in
    length, GRPO takes the mean of each answer first. The reference is that of `kl_from_reference`.

    Raises:
        ValueError: for a model without adapters when no reference is given, and unless there is an advantage an answer.

    Examples:
        >>> import torch
        >>> from peft_lessons import LoRAConfig, group_policy_losses, inject
        >>> from peft_lessons.models import load_tiny_gpt
        >>> model = inject(load_tiny_gpt()[0], LoRAConfig(rank=2))
        >>> ids, advantages = torch.tensor([[1, 2, 3], [1, 4, 5]]), torch.tensor([0.5, -0.5])
        >>> group_policy_losses(model, ids, ids, advantages).tolist()
        [-0.5, -0.5, 0.5, 0.5]
    """
    if advantages.shape != (len(input_ids),):
        raise ValueError(
            f"{len(input_ids)} answers need an advantage each, (answers,); got shape {tuple(advantages.shape)}"
        )
    scored = labels[:, 1:] != IGNORED
    before = _reference_log_probabilities(model, input_ids, labels, reference)
    scores = token_log_probabilities(model, input_ids, labels)
    return policy_losses(scores, before, labels[:, 1:][scored], advantages.repeat_interleave(scored.sum(1)), beta)


@torch.no_grad()
def _reference_log_probabilities(
    model: Decoder, input_ids: Tensor, labels: Tensor, reference: Decoder | None
) -> Tensor:
    if reference is not None:
        return token_log_probabilities(reference, input_ids, labels)
    with adapters_disabled(model):
        return token_log_probabilities(model, input_ids, labels)
