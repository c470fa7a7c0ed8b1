"""What is scored?

Write `scored(prompt, answer)`. Both are lists of token ids; the answer ends with the token that says "I am done".
Return two lists of the same length: the ids that the model reads, and the labels that its guesses are compared with.
The labels stand at the same places as the ids (the training loop shifts them). Only the answer is to be scored, all of
it; a label of −100 is not scored.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from peft_lessons.classroom.exercises import number_of
from peft_lessons.classroom.exercises.cases import Case, compare

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
RIGHT = {
    "a loop": """\
def scored(prompt, answer):
    ids, labels = [], []
    for token in prompt:
        ids.append(token)
        labels.append(-100)
    for token in answer:
        ids.append(token)
        labels.append(token)
    return ids, labels
""",
    "a copy whose beginning is replaced": """\
def scored(prompt, answer):
    ids = [*prompt, *answer]
    labels = list(ids)
    for place in range(len(prompt)):
        labels[place] = -100
    return [ids, labels]
""",
    "tensors made lists": """\
def scored(prompt, answer):
    ids = torch.tensor(prompt + answer)
    labels = ids.clone()
    labels[: len(prompt)] = -100
    return ids.tolist(), labels.tolist()
""",
    "NumPy": """\
def scored(prompt, answer):
    import numpy as np

    ids = np.concatenate([prompt, answer]).astype(int)
    return list(ids), np.where(np.arange(len(ids)) < len(prompt), -100, ids)
""",
    "tensors": """\
def scored(prompt, answer):
    ids = torch.cat([torch.tensor(prompt, dtype=torch.long), torch.tensor(answer, dtype=torch.long)])
    return ids, torch.nn.functional.pad(torch.tensor(answer), (len(prompt), 0), value=-100)
""",
}
WRONG = {
    "scores the prompt too": (
        _WRONG.format("prompt + answer, prompt + answer"),
        "this asks the model to write the question as well",
    ),
    "shifts the labels": (
        _WRONG.format("prompt + answer, ([-100] * len(prompt) + answer)[1:] + [-100]"),
        "the labels are shifted by one place, and the training loop will shift them again",
    ),
    "shifts the labels the other way": (
        _WRONG.format("prompt + answer, [-100] + ([-100] * len(prompt) + answer)[:-1]"),
        "the labels stand one place too late; they stand at the same places as the ids",
    ),
    "cuts ids and labels for the shift": (
        _WRONG.format("(prompt + answer)[:-1], ([-100] * len(prompt) + answer)[1:]"),
        "ids and labels are shifted against each other already, and the training loop will shift them again",
    ),
    "swaps the two": (
        _WRONG.format("[-100] * len(prompt) + answer, prompt + answer"),
        "the two have changed places: ids first, then labels",
    ),
    "reads the prompt alone": (
        _WRONG.format("prompt, answer"),
        "the model then does not read the answer, whose later tokens follow from its earlier ones",
    ),
    "reads the prompt alone, with all labels": (
        _WRONG.format("prompt, [-100] * len(prompt) + answer"),
        "the ids are the prompt alone; the model reads the answer, too",
    ),
    "labels the answer alone": (
        _WRONG.format("prompt + answer, answer"),
        "the labels are as long as the ids: where the prompt stands they are −100",
    ),
    "does not score the end": (
        _WRONG.format("prompt + answer, [-100] * len(prompt) + answer[:-1] + [-100]"),
        "without its last token the model never learns to stop",
    ),
    "drops the end": (
        _WRONG.format("prompt + answer[:-1], [-100] * len(prompt) + answer[:-1]"),
        "the answer's last token says that it is done: the model must learn it",
    ),
    "scores nothing": (
        _WRONG.format("prompt + answer, [-100] * len(prompt + answer)"),
        "nothing is scored, so nothing is learnt",
    ),
    "is the wrong way round": (
        _WRONG.format("prompt + answer, prompt + [-100] * len(answer)"),
        "the other way round, the question is scored and the answer is not",
    ),
    "begins a token early": (
        _WRONG.format("prompt + answer, [-100] * (len(prompt) - 1) + prompt[-1:] + answer"),
        "the last token of the prompt is still the prompt",
    ),
    "begins a token late": (
        _WRONG.format("prompt + answer, [-100] * (len(prompt) + 1) + answer[1:]"),
        "the answer's first token is scored, too",
    ),
    "scores the end alone": (
        _WRONG.format("prompt + answer, [-100] * (len(prompt + answer) - 1) + answer[-1:]"),
        "all of the answer is scored, not its last token alone",
    ),
    "uses zero": (
        _WRONG.format("prompt + answer, [0] * len(prompt) + answer"),
        "0 is a token like any other, −100 says that nothing is scored",
    ),
    "uses minus one": (
        _WRONG.format("prompt + answer, [-1] * len(prompt) + answer"),
        "−100 says that nothing is scored; −1 says nothing",
    ),
    "asks which tokens occur in the answer": (
        _WRONG.format("prompt + answer, [t if t in answer else -100 for t in prompt + answer]"),
        "a token of the prompt that also occurs in the answer is still the prompt: go by place, not by token",
    ),
    "asks which tokens occur in the prompt": (
        _WRONG.format("prompt + answer, [-100 if t in prompt else t for t in prompt + answer]"),
        "a token of the answer that also occurs in the prompt is still the answer: go by place, not by token",
    ),
    "puts the answer first": (
        _WRONG.format("answer + prompt, answer + [-100] * len(prompt)"),
        "the prompt comes first, then the answer",
    ),
    "lengthens the prompt": (
        "def scored(prompt, answer):\n"
        "    labels = [-100] * len(prompt) + answer\n"
        "    prompt += answer\n"
        "    return prompt, labels\n",
        "changed in place",
    ),
}


def check(student: Callable[..., Any]) -> None:
    pairs: list[tuple[list[int], list[int]]] = [
        ([11, 12, 13], [21, 22, 2]),
        ([11, 21, 2, 12], [21, 11, 22, 2]),  # with tokens that occur in both
        ([5], [2]),
        (list(range(40, 60)), [7, 8, 9, 2]),
        ([], [7, 2]),
    ]
    cases = [
        Case(
            (prompt, answer),
            (prompt + answer, [-100] * len(prompt) + answer),
            f"the prompt {prompt} and the answer {answer}",
        )
        for prompt, answer in pairs
    ]
    compare(student, cases, WRONG, ("the ids", "the labels"), _as_lists)


def _as_lists(returned: Any, case: Case) -> Any:
    """Each part as a plain list, whether it came as a list, a tuple, a tensor or an array."""
    return [_as_list(part) for part in returned] if isinstance(returned, tuple | list) else returned


def _as_list(part: Any) -> Any:
    if isinstance(part, torch.Tensor | np.ndarray):
        return part.tolist()
    if isinstance(part, tuple | list):
        return [token if number_of(token) is None else number_of(token) for token in part]
    return part
