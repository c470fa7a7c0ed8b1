"""What people prefer, and what a reward says: DPO (Rafailov et al. 2023, arXiv:2305.18290, Eq. 7), group advantages.

    L = −log σ(β [log π(y_w|x) / π_ref(y_w|x) − log π(y_l|x) / π_ref(y_l|x)])

y_w is the answer that was chosen, y_l the one that was rejected, log π(y|x) a sum over the answer's tokens, its end
included. π_ref is where training began: for an adapter that starts at zero, the model with its adapter switched off, so
that no second model lies in memory. At the start L is ln 2.

Group advantages are those of GRPO (Shao et al. 2024, arXiv:2402.03300, §4.1.2) without its division by the standard
deviation, which weighs easy and hard questions more than others (Liu et al. 2025, arXiv:2503.20783, §3.1).

Left out: a reference that is another adapter, which is right where the adapter held more than zero at the start.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.adapters import adapters_disabled
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
