"""Is the difference more than chance?

Write `standard_errors(right_a, right_b, n)`. Two models answered the same number of questions, `n` each, and got
`right_a` and `right_b` of them right. Treat the two results as independent. Return how many standard errors the share
of A lies above that of B (negative when it lies below): the difference of the shares, divided by its standard error.
Give each model's share its own variance.
"""

import math
from collections.abc import Callable
from typing import Any

from peft_lessons.classroom.exercises.cases import Case, compare

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
RIGHT = {
    "float32": """\
def standard_errors(right_a, right_b, n):
    shares = torch.tensor([right_a, right_b], dtype=torch.float32) / n
    return (shares[0] - shares[1]) / (shares * (1 - shares) / n).sum().sqrt()
""",
    "NumPy's variances": """\
def standard_errors(right_a, right_b, n):
    import numpy as np

    a, b = (np.repeat([1.0, 0.0], [right, n - right]) for right in (right_a, right_b))
    return (a.mean() - b.mean()) / np.sqrt(a.var() / n + b.var() / n)
""",
    "hypot of the two errors": """\
def standard_errors(right_a, right_b, n):
    import math

    def error(right):
        return math.sqrt(right / n * (1 - right / n) / n)

    return (right_a - right_b) / n / math.hypot(error(right_a), error(right_b))
""",
    "counts throughout": """\
def standard_errors(right_a, right_b, n):
    variance = right_a * (n - right_a) / n + right_b * (n - right_b) / n
    return (right_a - right_b) / variance**0.5
""",
}
WRONG = {
    "uses the error of one result": (
        _WRONG.format("(p - q) / a**0.5"),
        "both results vary: the variances of the two add up",
    ),
    "uses the error of B": (_WRONG.format("(p - q) / b**0.5"), "both results vary, A's as well as B's"),
    "adds errors, not variances": (_WRONG.format("(p - q) / (a**0.5 + b**0.5)"), "variances add, not their roots"),
    "subtracts variances": (
        _WRONG.format("(p - q) / abs(a - b) ** 0.5"),
        "the variance of a difference is the sum of the variances",
    ),
    "averages variances": (
        _WRONG.format("(p - q) / ((a + b) / 2) ** 0.5"),
        "add the two variances, don't average them",
    ),
    "forgets the root": (_WRONG.format("(p - q) / (a + b)"), "a standard error is the square root of a variance"),
    "forgets n": (
        _WRONG.format("(p - q) / (n * (a + b)) ** 0.5"),
        "the more questions, the less a share varies: divide each p (1 − p) by n",
    ),
    "divides the root by n": (
        _WRONG.format("(p - q) / ((n * (a + b)) ** 0.5 / n)"),
        "n stands under the root: the variance is p (1 − p) / n",
    ),
    "divides by n − 1": (
        _WRONG.format("(p - q) / ((a + b) * n / (n - 1)) ** 0.5"),
        "the variance of a share is p (1 − p) / n, here with n and not n − 1",
    ),
    "squares p": (_WRONG.format("(p - q) / ((p * p + q * q) / n) ** 0.5"), "the variance of one answer is p (1 − p)"),
    "forgets 1 − p": (
        _WRONG.format("(p - q) / ((p + q) / n) ** 0.5"),
        "the variance of one answer is p (1 − p), not p",
    ),
    "gives the distance without its sign": (
        _WRONG.format("abs(p - q) / (a + b) ** 0.5"),
        "it should be negative when A lies below B",
    ),
    "subtracts A from B": (_WRONG.format("(q - p) / (a + b) ** 0.5"), "that is B's share less A's"),
    "mixes per cent and shares": (
        _WRONG.format("100 * (p - q) / (a + b) ** 0.5"),
        "the difference is in per cent and its error is not: use shares for both",
    ),
    "mixes counts and shares": (
        _WRONG.format("n * (p - q) / (a + b) ** 0.5"),
        "the difference is a count of questions and its error is of shares: divide the counts by n",
    ),
    "takes counts for shares": (
        """\
def standard_errors(right_a, right_b, n):
    import math

    return (right_a - right_b) / math.sqrt(right_a * (1 - right_a) / n + right_b * (1 - right_b) / n)
""",
        "p (1 − p) needs shares between 0 and 1: divide the counts by n",
    ),
    "takes counts for shares, with a power": (
        """\
def standard_errors(right_a, right_b, n):
    return (right_a - right_b) / (right_a * (1 - right_a) / n + right_b * (1 - right_b) / n) ** 0.5
""",
        "the variance is below zero, for counts stand where shares should: divide them by n",
    ),
    "pools the two shares": (
        _WRONG.format("(p - q) / ((p + q) / 2 * (1 - (p + q) / 2) * 2 / n) ** 0.5"),
        "give each model its own p (1 − p), not that of both together",
    ),
    "gives the difference": (_WRONG.format("p - q"), "that is the difference itself: divide it by its standard error"),
    "gives the standard error": (
        _WRONG.format("(a + b) ** 0.5"),
        "that is the standard error itself: divide the difference by it",
    ),
    "is upside down": (_WRONG.format("(a + b) ** 0.5 / (p - q)"), "that is upside down: the difference comes first"),
    "multiplies": (_WRONG.format("(p - q) * (a + b) ** 0.5"), "divide by the standard error"),
}


def check(student: Callable[..., Any]) -> None:
    counts = ((60, 50, 120), (50, 60, 120), (631, 622, 1319), (90, 40, 120), (30, 7, 40), (20, 20, 50), (9, 10, 10))
    cases = []
    for right_a, right_b, n in counts:
        p, q = right_a / n, right_b / n
        expected = (p - q) / math.sqrt(p * (1 - p) / n + q * (1 - q) / n)
        cases.append(Case((right_a, right_b, n), expected, f"{right_a} and {right_b} right of {n}"))
    compare(student, cases, WRONG)
