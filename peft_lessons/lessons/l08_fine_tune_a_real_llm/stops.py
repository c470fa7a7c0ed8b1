"""A model that never stops.

A colleague fills up a batch with the end token, as is common: many tokenizers have no token for padding. "Padding is
not scored", the colleague thought, and wrote `batch_labels`. The model that was trained with it answers well, and then
goes on and on. Repair the function.

`ids` is (batch, tokens) of int64. A row is a prompt of `prompt_lengths[i]` tokens, in which `end` may occur, an answer
in which it does not, one `end`, and as many more `end` as fill the row. An answer that was cut off fills its row and
has no `end` at all. Labels are −100 where nothing is scored.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "A model that never stops"
MINUTES = 6

STARTER = '''\
def batch_labels(ids, prompt_lengths, end):
    """Labels (batch, tokens) for ids that are filled up with `end`"""
    labels = ids.clone()
    for row, length in zip(labels, prompt_lengths):
        row[:length] = -100
    labels[labels == end] = -100  # padding is not scored
    return labels
'''

HINTS = [
    "Which token does a model have to learn so that it stops? Look whether it is among the labels.",
    "The first `end` behind the prompt is the answer's own; only what stands behind it is padding.",
    "For each row: `places = (row[length:] == end).nonzero()`. If there are any, the padding begins at "
    "`length + int(places[0]) + 1`.",
]

SOLUTION = '''\
def batch_labels(ids, prompt_lengths, end):
    """Labels (batch, tokens) for ids that are filled up with `end`"""
    labels = ids.clone()
    for row, length in zip(labels, prompt_lengths):
        places = (row[length:] == end).nonzero()
        if len(places):  # none where the answer was cut off
            row[length + int(places[0]) + 1 :] = -100
        row[:length] = -100
    return labels
'''

RIGHT = {
    "counts the ends": """\
def batch_labels(ids, prompt_lengths, end):
    place = torch.arange(ids.shape[1])
    behind = place >= torch.tensor(prompt_lengths)[:, None]
    ends = ((ids == end) & behind).cumsum(dim=1)
    return torch.where(behind & ((ids != end) | (ends == 1)), ids, -100)
""",
    "lists": """\
def batch_labels(ids, prompt_lengths, end):
    rows = []
    for row, length in zip(ids.tolist(), prompt_lengths):
        answer = row[length:]
        kept = answer.index(end) + 1 if end in answer else len(answer)
        rows.append([-100] * length + answer[:kept] + [-100] * (len(answer) - kept))
    return torch.tensor(rows)
""",
    "from the right": """\
def batch_labels(ids, prompt_lengths, end):
    labels = torch.full_like(ids, -100)
    for i, length in enumerate(prompt_lengths):
        last = ids.shape[1]
        while last - 1 > length and ids[i, last - 2] == end and ids[i, last - 1] == end:
            last -= 1
        labels[i, length:last] = ids[i, length:last]
    return labels
""",
}

_WRONG = """\
def batch_labels(ids, prompt_lengths, end):
    labels = ids.clone()
    for row, length in zip(labels, prompt_lengths):
        places = (row[length:] == end).nonzero()
        {}
    return labels
"""
WRONG = {
    "masks every end": (
        _WRONG.format("row[:length] = -100; row[row == end] = -100"),
        "the answer's own end token is not scored, so the model never learns to stop",
    ),
    "scores the padding": (
        _WRONG.format("row[:length] = -100"),
        "the padding is scored, too: the model learns to write the end token for ever",
    ),
    "keeps two ends": (
        _WRONG.format("row[length + int(places[0]) + 2 if len(places) else len(row) :] = -100; row[:length] = -100"),
        "one end token is enough: the second is padding",
    ),
    "takes the prompt's end for the answer's": (
        """\
def batch_labels(ids, prompt_lengths, end):
    labels = ids.clone()
    for row, length in zip(labels, prompt_lengths):
        places = (row == end).nonzero()
        if len(places):
            row[int(places[0]) + 1 :] = -100
        row[:length] = -100
    return labels
""",
        "an end token in the prompt is none of the answer's; look behind the prompt",
    ),
    "trusts that there is an end": (
        """\
def batch_labels(ids, prompt_lengths, end):
    labels = ids.clone()
    for row, length in zip(labels, prompt_lengths):
        row[length + int((row[length:] == end).int().argmax()) + 1 :] = -100
        row[:length] = -100
    return labels
""",
        "an answer that was cut off has no end token, and all of it is scored",
    ),
    "always scores the last place": (
        """\
def batch_labels(ids, prompt_lengths, end):
    labels = ids.clone()
    for row, length in zip(labels, prompt_lengths):
        row[:length] = -100
        row[row == end] = -100
        row[-1] = end
    return labels
""",
        "the end token that counts stands right behind the answer, not at the end of the row",
    ),
    "scores the prompt": (
        _WRONG.format("row[length + int(places[0]) + 1 if len(places) else len(row) :] = -100"),
        "the prompt is scored, too",
    ),
}


def check(student: Callable[..., Any]) -> None:
    rows = [
        ([[5, 6, 7, 8, 2, 2, 2], [5, 6, 7, 2, 2, 2, 2]], [2, 2]),
        ([[5, 2, 6, 7, 8, 2], [5, 6, 2, 2, 7, 2]], [3, 4]),
        ([[5, 6, 7, 8, 9], [5, 6, 7, 8, 2]], [2, 2]),
        ([[5, 6, 7, 8], [5, 6, 7, 2], [2, 6, 2, 2]], [1, 3, 2]),
        ([[3, 2, 4, 4, 2, 2, 2, 2]], [2]),
    ]
    cases = [_case(torch.tensor(ids), lengths) for ids, lengths in rows]
    cases.append(_case(torch.tensor([[5, 6, 7, 1, 9, 9, 9], [4, 9, 3, 8, 8, 9, 9]]), [3, 3], end=9))
    cases.append(_case(torch.tensor([[7, 49_151, 49_150, 49_152, 49_152]]), [1], end=49_152))
    compare(student, cases, WRONG)


def _case(ids: Tensor, lengths: list[int], end: int = 2) -> Case:
    labels = []
    for row, length in zip(ids.tolist(), lengths, strict=True):
        answer = row[length:]
        kept = answer.index(end) + 1 if end in answer else len(answer)
        labels.append([-100] * length + answer[:kept] + [-100] * (len(answer) - kept))
    return Case((ids, lengths, end), torch.tensor(labels), f"ids {ids.tolist()}, prompts of {lengths} and end {end}")
