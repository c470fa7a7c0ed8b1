"""From four log-probabilities to a loss.

Write `my_dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta)`. Each of the four is a tensor
(pairs,): log π(y|x), the log-probability of a whole answer, summed over its tokens. The first two are the model's, the
others those of the reference, where training began. Return the loss of each pair, (pairs,):

$$L = -\\log \\sigma(\\beta\\,[r_w - r_l]), \\quad r = \\log\\frac{\\pi(y|x)}{\\pi_{ref}(y|x)}$$

r_w is that of the chosen answer and r_l that of the rejected one. L must stay finite where a pair is far off.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises.cases import Case, compare
from peft_lessons.preference import dpo_loss

TITLE = "The loss of DPO"
MINUTES = 6

STARTER = '''\
def my_dpo_loss(
    chosen, rejected, reference_chosen, reference_rejected, beta
):
    """L of each pair, from the log-probabilities of its answers"""
    return ...
'''

HINTS = [
    "These are logarithms already: a quotient of probabilities is a difference of them.",
    "`gained = chosen - reference_chosen` is how much likelier the chosen answer has become. The same for the rejected "
    "one; the loss sees the difference of the two, times β.",
    "`-torch.nn.functional.logsigmoid(beta * (…))`: the logarithm of a sigmoid that rounds to 0 is infinite.",
]

SOLUTION = '''\
def my_dpo_loss(
    chosen, rejected, reference_chosen, reference_rejected, beta
):
    """L of each pair, from the log-probabilities of its answers"""
    gap = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -torch.nn.functional.logsigmoid(beta * gap)
'''

RIGHT = {
    "softplus": """\
def my_dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta):
    gap = chosen - rejected - reference_chosen + reference_rejected
    return torch.nn.functional.softplus(-beta * gap)
""",
    "logaddexp": """\
def my_dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta):
    won = beta * (chosen - reference_chosen)
    lost = beta * (rejected - reference_rejected)
    return torch.logaddexp(won, lost) - won
""",
    "cross-entropy of two": """\
def my_dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta):
    rewards = beta * torch.stack([chosen - reference_chosen, rejected - reference_rejected], dim=1)
    first = torch.zeros(len(rewards), dtype=torch.long)
    return torch.nn.functional.cross_entropy(rewards, first, reduction="none")
""",
}

_WRONG = """\
def my_dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta):
    return {}
"""
_GAP = "((chosen - reference_chosen) - (rejected - reference_rejected))"
_LOG = "torch.nn.functional.logsigmoid"
WRONG = {
    "forgets the reference": (
        _WRONG.format(f"-{_LOG}(beta * (chosen - rejected))"),
        "the reference is missing: an answer that was likely from the start counts as preferred",
    ),
    "prefers the rejected": (
        _WRONG.format(f"-{_LOG}(-beta * {_GAP})"),
        "the sign: this makes the rejected answer likelier",
    ),
    "adds the reference": (
        _WRONG.format(f"-{_LOG}(beta * ((chosen + reference_chosen) - (rejected + reference_rejected)))"),
        "a quotient of probabilities is a *difference* of their logarithms",
    ),
    "puts beta on one term": (
        _WRONG.format(f"-{_LOG}(beta * (chosen - reference_chosen) - (rejected - reference_rejected))"),
        "β multiplies both terms",
    ),
    "forgets beta": (_WRONG.format(f"-{_LOG}({_GAP})"), "β is missing"),
    "puts beta outside": (
        _WRONG.format(f"-beta * {_LOG}({_GAP})"),
        "β stands inside the sigmoid: outside it would only change the learning rate",
    ),
    "forgets the logarithm": (
        _WRONG.format(f"-torch.sigmoid(beta * {_GAP})"),
        "the logarithm is missing",
    ),
    "forgets the minus": (
        _WRONG.format(f"{_LOG}(beta * {_GAP})"),
        "the minus in front is missing: a loss is to fall when the chosen answer gains",
    ),
    "takes the mean": (
        _WRONG.format(f"-{_LOG}(beta * {_GAP}).mean()"),
        "has the shape (), it should have",
    ),
    "overflows": (
        _WRONG.format(f"-torch.log(torch.sigmoid(beta * {_GAP}))"),
        "are NaN or infinite",
    ),
}


def check(student: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    many = [-60 * torch.rand(40) for _ in range(4)]
    cases = [
        _case([[-20.0], [-30.0], [-20.0], [-30.0]], 0.1, "a pair at the start of training"),
        _case([[-10.0], [-30.0], [-20.0], [-30.0]], 0.1, "a chosen answer that has gained 10 nats"),
        _case([[-20.0], [-20.0], [-20.0], [-30.0]], 0.1, "a rejected answer that has gained 10 nats"),
        _case([[-25.0], [-70.0], [-20.0], [-30.0]], 0.1, "both answers less likely, the rejected one by more"),
        _case([[-12.0], [-31.0], [-20.0], [-28.0]], 0.5, "β = 0.5"),
        _case([[-20.0, -5.0], [-30.0, -9.0], [-21.0, -6.0], [-28.0, -4.0]], 0.2, "two pairs"),
        _case([[-900.0], [-20.0], [-20.0], [-30.0]], 0.5, "a pair that is far off"),
        _case([one.tolist() for one in many], 0.3, "forty pairs"),
    ]
    compare(student, cases, WRONG)


def _case(four: list[list[float]], beta: float, words: str) -> Case:
    a, b, c, d = (torch.tensor(one) for one in four)
    return Case((a, b, c, d, beta), dpo_loss(a, b, c, d, beta), f"{words}, with {four} and β = {beta},")
