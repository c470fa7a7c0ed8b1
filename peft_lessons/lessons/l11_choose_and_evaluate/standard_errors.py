"""Is the difference more than chance?

Write `standard_errors(right_a, right_b, n)`. Two models answered the same number of questions, `n` each, and got
`right_a` and `right_b` of them right. Treat the two results as independent. Return how many standard errors the share
of A lies above that of B (negative when it lies below): the difference of the shares, divided by its standard error.
Give each model's share its own variance.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises import Incorrect, NotAttempted, describe

TITLE = "How many standard errors?"
MINUTES = 6

STARTER = '''\
def standard_errors(right_a, right_b, n):
    """The difference of two shares in units of its standard error"""
    return ...
'''

HINTS = [
    "A share p of n answers has the variance p (1 − p) / n. The standard error is the root of a variance.",
    "The variance of a difference of independent results is the *sum* of their variances.",
    "With `p, q = right_a / n, right_b / n` it is `p - q`, divided by the root of two variances added.",
]

SOLUTION = '''\
def standard_errors(right_a, right_b, n):
    """The difference of two shares in units of its standard error"""
    p, q = right_a / n, right_b / n
    variance = p * (1 - p) / n + q * (1 - q) / n
    return (p - q) / variance**0.5
'''

_WRONG = """\
def standard_errors(right_a, right_b, n):
    p, q = right_a / n, right_b / n
    a, b = p * (1 - p) / n, q * (1 - q) / n
    return {}
"""
WRONG = {
    "uses the error of one result": (_WRONG.format("(p - q) / a**0.5"), "both results vary"),
    "adds errors, not variances": (_WRONG.format("(p - q) / (a**0.5 + b**0.5)"), "variances add, not their roots"),
    "forgets the root": (_WRONG.format("(p - q) / (a + b)"), "square root"),
    "forgets n": (_WRONG.format("(p - q) / (n * (a + b)) ** 0.5"), "the less a share varies"),
    "gives the distance without its sign": (_WRONG.format("abs(p - q) / (a + b) ** 0.5"), "negative"),
    "mixes per cent and shares": (_WRONG.format("100 * (p - q) / (a + b) ** 0.5"), "use shares for both"),
    "pools the two shares": (
        _WRONG.format("(p - q) / ((p + q) / 2 * (1 - (p + q) / 2) * 2 / n) ** 0.5"),
        "its own p",
    ),
    "gives the difference": (_WRONG.format("p - q"), "divide it"),
}


def check(student: Callable[..., Any]) -> None:
    _compare(student, 60, 50, 120)
    _compare(student, 50, 60, 120)
    _compare(student, 631, 622, 1319)
    _compare(student, 90, 40, 120)


def _compare(student: Callable[..., Any], right_a: int, right_b: int, n: int) -> None:
    returned = student(right_a, right_b, n)
    if returned is ...:
        raise NotAttempted
    p, q = right_a / n, right_b / n
    a, b = p * (1 - p) / n, q * (1 - q) / n
    expected = (p - q) / math.sqrt(a + b)
    said = f"for {right_a} and {right_b} right of {n} you return {describe(returned)}, it should be {expected:.4f}"
    if isinstance(returned, torch.Tensor) and returned.numel() == 1:
        returned = returned.item()
    if isinstance(returned, bool) or not isinstance(returned, int | float):
        raise Incorrect(f"{said}, a number")
    mistakes = {
        (p - q) / math.sqrt(a): "both results vary: the variances of the two add up",
        (p - q) / (math.sqrt(a) + math.sqrt(b)): "variances add, not their roots",
        (p - q) / (a + b): "a standard error is the square root of a variance",
        (p - q) / math.sqrt(n * (a + b)): "the more questions, the less a share varies: divide each p (1 − p) by n",
        abs(expected): "it should be negative when A lies below B",
        100 * expected: "the difference is in per cent and its error is not: use shares for both",
        n * expected: "the difference is a count of questions and its error is of shares: divide the counts by n",
        (p - q)
        / math.sqrt((p + q) * (1 - (p + q) / 2) / n): "give each model its own p (1 − p), not that of both together",
        p - q: "that is the difference itself: divide it by its standard error",
    }
    if not math.isclose(returned, expected, rel_tol=1e-6, abs_tol=1e-9):
        why = next((reason for value, reason in mistakes.items() if math.isclose(returned, value, rel_tol=1e-6)), None)
        raise Incorrect(said + (f": {why}" if why else ""))
