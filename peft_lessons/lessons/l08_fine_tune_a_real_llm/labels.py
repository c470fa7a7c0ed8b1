"""What is scored?

Write `scored(prompt, answer)`. Both are lists of token ids; the answer ends with the token that says "I am done".
Return two lists of the same length: the ids that the model reads, and the labels that its guesses are compared with.
The labels stand at the same places as the ids (the training loop shifts them). Only the answer is to be scored, all of
it; a label of −100 is not scored.
"""

from collections.abc import Callable
from typing import Any

from peft_lessons.classroom.exercises import Incorrect, NotAttempted, describe

TITLE = "Only the answer is scored"
MINUTES = 4

STARTER = '''\
def scored(prompt, answer):
    """(ids, labels), two lists of the same length"""
    return ..., ...
'''

HINTS = [
    "The model must read the question and the answer: the ids are the two lists, one after the other.",
    "Labels are as long. Where the prompt stands, they are −100; where the answer stands, they are the answer.",
    "`ids = prompt + answer`, and `labels = [-100] * len(prompt) + …`.",
]

SOLUTION = '''\
def scored(prompt, answer):
    """(ids, labels), two lists of the same length"""
    return prompt + answer, [-100] * len(prompt) + answer
'''

_WRONG = "def scored(prompt, answer):\n    return {}\n"
WRONG = {
    "scores the prompt too": (
        _WRONG.format("prompt + answer, prompt + answer"),
        "asks the model to write the question",
    ),
    "shifts the labels": (
        _WRONG.format("prompt + answer, [-100] * (len(prompt) - 1) + answer + [-100]"),
        "shifted",
    ),
    "reads the prompt alone": (_WRONG.format("prompt, answer"), "does not read the answer"),
    "does not score the end": (
        _WRONG.format("prompt + answer, [-100] * len(prompt) + answer[:-1] + [-100]"),
        "never learns to stop",
    ),
    "scores nothing": (_WRONG.format("prompt + answer, [-100] * len(prompt + answer)"), "nothing is scored"),
    "is the wrong way round": (_WRONG.format("prompt + answer, prompt + [-100] * len(answer)"), "the other way round"),
    "begins a token early": (
        _WRONG.format("prompt + answer, [-100] * (len(prompt) - 1) + prompt[-1:] + answer"),
        "still the prompt",
    ),
    "uses zero": (_WRONG.format("prompt + answer, [0] * len(prompt) + answer"), "0 is a token"),
}


def check(student: Callable[..., Any]) -> None:
    for prompt, answer in (([11, 12, 13], [21, 22, 2]), ([5], [2]), (list(range(40, 60)), [7, 8, 9, 2])):
        _compare(student(list(prompt), list(answer)), prompt, answer)


def _compare(returned: Any, prompt: list[int], answer: list[int]) -> None:
    case = f"for the prompt {prompt} and the answer {answer}"
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise Incorrect(f"{case} you return {describe(returned)}, it should be two lists")
    if any(part is ... for part in returned):
        raise NotAttempted
    try:
        ids, labels = (list(part) for part in returned)
    except TypeError:
        raise Incorrect(f"{case} you return {describe(returned)}, it should be two lists") from None
    whole, wanted = prompt + answer, [-100] * len(prompt) + answer
    if ids != whole:
        why = "; the model then does not read the answer, whose later tokens follow from its earlier ones"
        raise Incorrect(f"{case} the ids are {describe(ids)}{why if ids == prompt else f', they should be {whole}'}")
    if labels != wanted:
        raise Incorrect(f"{case} the labels are {describe(labels)}{_why(labels, wanted, prompt, answer)}")


def _why(labels: list[int], wanted: list[int], prompt: list[int], answer: list[int]) -> str:
    if labels == prompt + answer:
        return ": this asks the model to write the question as well"
    if labels == [-100] * len(wanted):
        return ": nothing is scored, so nothing is learnt"
    if labels == [0] * len(prompt) + answer:
        return ": 0 is a token like any other, −100 says that nothing is scored"
    if labels == prompt + [-100] * len(answer):
        return ": the other way round, the question is scored and the answer is not"
    if labels == [-100] * (len(prompt) - 1) + prompt[-1:] + answer:
        return ": the last token of the prompt is still the prompt"
    if labels == [*wanted[:-1], -100]:
        return ": without its last token the model never learns to stop"
    if labels == [*wanted[1:], -100]:
        return ": they are shifted by one place, and the training loop will shift them again"
    return f", they should be {wanted}"
