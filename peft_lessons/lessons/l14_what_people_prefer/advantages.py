"""Better than which answers?

A model answers each of several questions a few times, and each answer earns a reward. Write `my_advantages(rewards)`:
from `rewards` (questions, answers) a tensor of the same shape that says by how much each answer is better than the mean
of the answers to *its own* question. Where all answers to a question earn the same, all are 0.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "How much better than its group?"
MINUTES = 4

STARTER = '''\
def my_advantages(rewards):
    """(questions, answers): each reward less its question's mean"""
    return ...
'''

HINTS = [
    "A row of `rewards` are the answers to one question. What is the mean of each row?",
    "`rewards.mean(dim=1)` has the shape (questions,). To subtract it from each row, it needs a second dimension.",
    "`rewards.mean(dim=1, keepdim=True)` has the shape (questions, 1), and is subtracted from every column.",
]

SOLUTION = '''\
def my_advantages(rewards):
    """(questions, answers): each reward less its question's mean"""
    return rewards - rewards.mean(dim=1, keepdim=True)
'''

RIGHT = {
    "row by row": """\
def my_advantages(rewards):
    return torch.stack([row - row.sum() / len(row) for row in rewards])
""",
    "a sum over the group": """\
def my_advantages(rewards):
    count = rewards.shape[1]
    return (count * rewards - rewards.sum(1)[:, None]) / count
""",
    "means as wide as the rewards": """\
def my_advantages(rewards):
    means = torch.einsum("qa->q", rewards) / rewards.size(-1)
    return torch.sub(rewards, means.unsqueeze(-1).expand_as(rewards))
""",
}

_WRONG = "def my_advantages(rewards):\n    return {}\n"
WRONG = {
    "compares with all answers": (
        _WRONG.format("rewards - rewards.mean()"),
        "this is the mean of all questions: an easy question would praise even its worst answer",
    ),
    "compares with the other questions": (
        _WRONG.format("rewards - rewards.mean(dim=0, keepdim=True)"),
        "this is the mean over questions; a row is one question, and its answers stand side by side",
    ),
    "divides by the standard deviation": (
        _WRONG.format("(rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)"),
        "dividing by the standard deviation weighs questions by how alike their answers are",
    ),
    "divides by nothing": (
        _WRONG.format("(rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True)"),
        "NaN or infinite",
    ),
    "takes the best as measure": (
        _WRONG.format("rewards - rewards.max(dim=1, keepdim=True).values"),
        "this compares with the best answer: all others would be pushed down, and none up",
    ),
    "takes the median": (
        _WRONG.format("rewards - rewards.median(dim=1, keepdim=True).values"),
        "this is the median: the advantages of a group would not add up to 0",
    ),
    "is the wrong way round": (
        _WRONG.format("rewards.mean(dim=1, keepdim=True) - rewards"),
        "the sign: the better answer must have the larger number",
    ),
    "leaves the rewards": (
        _WRONG.format("rewards"),
        "nothing is subtracted: whatever earns something is praised",
    ),
    "gives the means": (
        _WRONG.format("rewards.mean(dim=1)"),
        "it should have (",
    ),
}


def check(student: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    rows = [
        [[1.0, 0.0]],
        [[0.5, 0.5, 0.5]],
        [[1.0, 0.0], [1.0, 1.0]],
        [[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]],
        [[3.0, 1.0, 2.0], [10.0, 30.0, 20.0]],
        torch.rand(3, 3).tolist(),
        torch.rand(2, 5).tolist(),
        torch.rand(4, 1).tolist(),
    ]
    compare(student, [_case(torch.tensor(one)) for one in rows], WRONG)


def _case(rewards: torch.Tensor) -> Case:
    expected = rewards - rewards.mean(dim=1, keepdim=True)
    return Case((rewards,), expected, f"rewards {[[round(one, 2) for one in row] for row in rewards.tolist()]}")
