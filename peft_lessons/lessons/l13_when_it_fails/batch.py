"""Would you train on it?

Batches come from somebody else's code, for a training loop that shifts labels itself. Write `sound(ids, labels, end)`:
True if you would train on the batch, False if not. `ids` and `labels` are (batch, tokens) of int64.

In a sound batch each row is a prompt of one token or more, in which `end` may occur and nothing is scored; an answer,
all of it scored, with one `end` as its last token and no other; and filling with `end`, not scored. Where nothing is
scored the label is −100, elsewhere it is the token at its own place. You are tried on batches that you have not seen.
"""

from collections.abc import Callable
from typing import Any

import torch

from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "Is this batch sound?"
MINUTES = 8

STARTER = '''\
def sound(ids, labels, end):
    """True if this batch is as it should be"""
    return ...
'''

HINTS = [
    "Go row by row, and list the places that are scored. What must be true of the first of them, of the last, and of "
    "all in between?",
    "None at all, or place 0 among them: a fault. A gap: a fault. Labels there that are not the ids: a fault.",
    "The last scored id must be `end`, no scored one before it may be, and what stands behind it must be `end` alone.",
]

SOLUTION = '''\
def sound(ids, labels, end):
    """True if this batch is as it should be"""
    for row, label in zip(ids.tolist(), labels.tolist()):
        places = [i for i, token in enumerate(label) if token != -100]
        if not places or places[0] == 0:
            return False  # nothing is scored, or the prompt is
        first, last = places[0], places[-1]
        answer, filling = row[first : last + 1], row[last + 1 :]
        if label[first : last + 1] != answer:
            return False  # shifted, or with gaps
        if answer.count(end) != 1 or answer[-1] != end:
            return False  # no end token, or padding among the answer
        if any(token != end for token in filling):
            return False  # a part of the answer is not scored
    return True
'''

RIGHT = {
    "tensors": """\
def sound(ids, labels, end):
    scored = labels != -100
    place = torch.arange(ids.shape[1])
    first = torch.where(scored, place, ids.shape[1]).amin(dim=1)
    last = torch.where(scored, place, -1).amax(dim=1)
    inside = (place >= first[:, None]) & (place <= last[:, None])
    ends = ids == end
    return bool(
        scored.any(dim=1).all()
        and (first > 0).all()
        and torch.equal(inside, scored)
        and torch.equal(ids[scored], labels[scored])
        and ((ends & scored).sum(dim=1) == 1).all()
        and ends.gather(1, last[:, None]).all()
        and (ends | (place <= last[:, None])).all()
    )
""",
    "the labels that a sound batch would have": """\
def sound(ids, labels, end):
    for row, label in zip(ids, labels):
        start = int((label != -100).int().argmax())
        if start == 0:
            return False
        stops = (row[start:] == end).nonzero()
        if len(stops) == 0:
            return False
        stop = start + int(stops[0])
        wanted = torch.full_like(row, -100)
        wanted[start : stop + 1] = row[start : stop + 1]
        if not torch.equal(label, wanted) or bool((row[stop:] != end).any()):
            return False
    return True
""",
    "a machine that reads a row": """\
def sound(ids, labels, end):
    def well(row, label):
        part = "prompt"
        for place, (token, target) in enumerate(zip(row, label)):
            if part == "prompt" and target != -100:
                if place == 0:
                    return False
                part = "answer"
            if part == "answer":
                if target != token:
                    return False
                if token == end:
                    part = "filling"
            elif part == "filling" and (token != end or target != -100):
                return False
        return part == "filling"

    return all(well(row, label) for row, label in zip(ids.tolist(), labels.tolist()))
""",
}

_WRONG = """\
def sound(ids, labels, end):
    for row, label in zip(ids.tolist(), labels.tolist()):
        places = [i for i, token in enumerate(label) if token != -100]
        if {nothing}:
            return False
        first, last = places[0], places[-1]
        answer, filling = row[first : last + 1], row[last + 1 :]
        if {labels}:
            return False
        if {ends}:
            return False
        if {filling}:
            return False
    return True
"""
_RIGHT = {
    "nothing": "not places or places[0] == 0",
    "labels": "label[first : last + 1] != answer",
    "ends": "answer.count(end) != 1 or answer[-1] != end",
    "filling": "any(token != end for token in filling)",
}


def _wrong(**changes: str) -> str:
    return _WRONG.format(**_RIGHT | changes)


WRONG = {
    "takes all": ("def sound(ids, labels, end):\n    return True\n", "you take every batch"),
    "takes none": ("def sound(ids, labels, end):\n    return False\n", "you take no batch, not even a sound one"),
    "looks at the first row alone": (
        _wrong().replace("zip(ids.tolist(), labels.tolist())", "[(ids[0].tolist(), labels[0].tolist())]"),
        "the fault is not in the first row; look at all of them",
    ),
    "takes a scored prompt": (_wrong(nothing="not places"), "the prompt is scored from the first token on"),
    "takes shifted labels": (
        _wrong(labels="len(places) != last - first + 1"),
        "the labels are not the tokens at their own places, and the loop shifts them once more",
    ),
    "takes gaps": (
        _wrong(labels="any(label[i] != row[i] for i in places)"),
        "an answer with a hole: some of its tokens are not scored",
    ),
    "takes answers without an end": (
        _wrong(ends="end in answer[:-1]"),
        "no end token is scored, so the model would never learn to stop",
    ),
    "takes scored padding": (
        _wrong(ends="answer[-1] != end"),
        "the filling is scored, too: end tokens behind the answer's own",
    ),
    "forbids an end token in the prompt": (
        _wrong(ends="answer.count(end) != 1 or answer[-1] != end or end in row[:first]"),
        "an end token in the prompt is no fault: a chat has one after each turn",
    ),
    "wants filling": (
        _wrong(filling="not filling or any(token != end for token in filling)"),
        "the longest row of a batch has no filling, and that is no fault",
    ),
    "does not look behind the answer": (
        _wrong(filling="False"),
        "tokens of an answer stand behind the scored ones, and are not scored",
    ),
}


def check(student: Callable[..., Any]) -> None:
    none = -100
    cases = [
        _case([[5, 6, 7, 2]], [[none, none, 7, 2]], True, "a sound row"),
        _case([[5, 6, 7, 2]], [[5, 6, 7, 2]], False, "a scored prompt"),
        _case([[5, 6, 7, 2]], [[none, 7, 2, none]], False, "labels that were shifted already"),
        _case([[5, 6, 7, 8]], [[none, none, 7, 8]], False, "an answer without its end"),
        _case([[5, 6, 7, 2]], [[none, none, none, none]], False, "a row in which nothing is scored"),
        _case([[5, 6, 7, 2, 2, 2]], [[none, none, 7, 2, 2, 2]], False, "scored filling"),
        _case([[5, 2, 6, 7, 2, 2]], [[none, none, none, 7, 2, none]], True, "a chat of two turns"),
        _case([[5, 6, 7, 2, 2], [5, 6, 7, 8, 2]], [[none, none, 7, 2, none], [none, 6, 7, 8, 2]], True, "two rows"),
        _case([[5, 6, 7, 2, 2], [5, 6, 7, 8, 2]], [[none, none, 7, 2, none], [none, 6, 7, 8, none]], False, "two rows"),
        _case([[5, 6, 7, 8, 2]], [[none, 6, none, 8, 2]], False, "an answer with a gap"),
        _case([[5, 6, 7, 8, 2]], [[none, 6, 9, 8, 2]], False, "a label that is another token"),
        _case([[5, 6, 2, 8, 2]], [[none, 6, 2, none, none]], False, "an answer that goes on unscored"),
        _case([[5, 6, 2, 8, 2]], [[none, 6, 2, 8, 2]], False, "an end token in the middle of an answer"),
        _case([[5, 2, 2, 2]], [[none, 2, none, none]], True, "an empty answer"),
        _case([[5, 6, 7, 2]], [[none, none, none, 2]], True, "an answer that is its end alone"),
        _case([[5, 6, 7, 2, 2]], [[none, none, 7, none, 2]], False, "a scored end of the filling"),
        _case([[5, 6, 7, 2, 2]], [[5, none, 7, 2, none]], False, "a first token that is scored"),
        _case([[5, 6, 2, 2, 8]], [[none, 6, 2, none, none]], False, "an answer that goes on later"),
        _case([[5, 6, 2, 8]], [[none, 6, 2, 8]], False, "an answer with its end in the middle"),
        _case([[5, 6, 2, 8, 2]], [[none, 6, 2, 8, none]], False, "an answer with its end in the middle"),
        _case([[5, 6, 9, 8]], [[none, 6, 9, 8]], False, "an answer with its end, 9, in the middle", 9),
        _case([[5, 6, 9, 8]], [[none, 6, 9, none]], False, "an answer that goes on behind its end, 9,", 9),
        _case([[5, 49_151, 2]], [[none, 49_151, 2]], True, "a token with a large number"),
        _case([[5, 2**24 + 1, 2]], [[none, 2**24, 2]], False, "a label that is another token"),
        _case([[5, 2**24, 2]], [[none, 2**24 + 1, 2]], False, "a label that is another token"),
        _case(
            [[5, 6, 7, 9], [9, 6, 9, 9]], [[none, none, 7, 9], [none, 6, 9, none]], True, "two rows with the end 9", 9
        ),
        _case([[5, 6, 0], [0, 0, 0]], [[none, 6, 0], [none, 0, none]], True, "the end token 0", 0),
    ]
    compare(student, cases, WRONG)


def _case(ids: list[list[int]], labels: list[list[int]], sound: bool, words: str, end: int = 2) -> Case:
    return Case((torch.tensor(ids), torch.tensor(labels), end), sound, f"{words}, ids {ids} and labels {labels},")
