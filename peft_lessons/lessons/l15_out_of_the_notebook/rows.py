"""In whose order do the rows lie?

The rows of a query or key matrix, and of its adapter's B, lie head by head, d of them for each head. In each head this
decoder, as Hugging Face's models, turns row i together with row i + d/2; in Llamas llama.cpp turns rows 2i and 2i + 1
together. Write `to_neighbours(rows, heads)`: from `rows` (heads · d, r), in our order, the same rows in llama.cpp's, so
that our pair i, i + d/2 becomes its pair 2i, 2i + 1.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises.cases import Case, compare
from peft_lessons.models.llama_gguf import to_neighbours

TITLE = "Partners side by side"
MINUTES = 6

STARTER = '''\
def to_neighbours(rows, heads):
    """(heads · d, r) in our order → (heads · d, r) in llama.cpp's"""
    return ...
'''

HINTS = [
    "With d = 8 a head lies 0 1 2 3 | 4 5 6 7 here, with partners below each other. Wanted is 0 4 1 5 2 6 3 7.",
    "`d = len(rows) // heads`, `r = rows.shape[1]`: where does `rows.reshape(heads, 2, d // 2, r)` put the halves?",
    "`.transpose(1, 2)` puts the halves inside; `.reshape(heads * d, r)` lays the rows in a line again.",
]

SOLUTION = '''\
def to_neighbours(rows, heads):
    """(heads · d, r) in our order → (heads · d, r) in llama.cpp's"""
    halves = rows.reshape(heads, 2, -1, rows.shape[1])
    return halves.transpose(1, 2).reshape(rows.shape)
'''

RIGHT = {
    "row by row": """\
def to_neighbours(rows, heads):
    d = len(rows) // heads
    order = [head * d + half * d // 2 + i for head in range(heads) for i in range(d // 2) for half in (0, 1)]
    return rows[order]
""",
    "filled": """\
def to_neighbours(rows, heads):
    new = torch.empty_like(rows)
    for mine, theirs in zip(rows.chunk(heads), new.chunk(heads)):
        first, second = mine.chunk(2)
        theirs[0::2], theirs[1::2] = first, second
    return new
""",
    "stacked": """\
def to_neighbours(rows, heads):
    heads_of_rows = rows.view(heads, -1, rows.shape[-1])
    first, second = heads_of_rows.chunk(2, dim=1)
    return torch.stack((first, second), dim=2).flatten(0, 2)
""",
}

_WRONG = "def to_neighbours(rows, heads):\n    {}\n"
WRONG = {
    "leaves them": (_WRONG.format("return rows"), "these are the rows as they lay: partners are still d/2 apart"),
    "goes the other way": (
        _WRONG.format("return rows.reshape(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)"),
        "this leads from llama.cpp's order to ours; the other way is wanted",
    ),
    "forgets the heads": (
        _WRONG.format("return rows.reshape(2, -1, rows.shape[1]).transpose(0, 1).reshape(rows.shape)"),
        "this pairs rows of different heads: each head is put in order on its own",
    ),
    "mixes the heads": (
        _WRONG.format("return rows.reshape(heads, -1, rows.shape[1]).transpose(0, 1).reshape(rows.shape)"),
        "this lays rows of different heads side by side: a head's rows stay together",
    ),
    "puts the second half first": (
        _WRONG.format("return rows.reshape(heads, 2, -1, rows.shape[1]).flip(1).transpose(1, 2).reshape(rows.shape)"),
        "partners are neighbours, but the second of each pair stands first",
    ),
    "exchanges the halves": (
        _WRONG.format("return rows.reshape(heads, 2, -1, rows.shape[1]).flip(1).reshape(rows.shape)"),
        "the halves have changed places, and partners are still d/2 apart",
    ),
    "moves columns": (
        _WRONG.format("return rows.reshape(len(rows), 2, -1).transpose(1, 2).reshape(rows.shape)"),
        "the columns have moved: only rows may",
    ),
    "keeps four dimensions": (
        _WRONG.format("return rows.reshape(heads, 2, -1, rows.shape[1]).transpose(1, 2)"),
        "it should have (",
    ),
    "changes the dtype": (
        _WRONG.format("return rows.float().reshape(heads, 2, -1, rows.shape[1]).transpose(1, 2).reshape(rows.shape)"),
        "keep the dtype that the rows have",
    ),
    "gives the order": (
        _WRONG.format("return torch.arange(len(rows)).reshape(heads, 2, -1).transpose(1, 2).flatten()"),
        "it should have (",
    ),
}


def check(student: Callable[..., Any]) -> None:
    sizes = ((1, 8, 2), (2, 6, 2), (3, 8, 4), (4, 2, 2), (3, 10, 6))
    compare(student, [*(_case(*each) for each in sizes), _case(2, 8, 2, torch.bfloat16)], WRONG)


def _case(heads: int, d: int, r: int, dtype: torch.dtype = torch.float32) -> Case:
    shuffled = torch.randperm(heads * d, generator=torch.Generator().manual_seed(d))
    rows: Tensor = (shuffled.unsqueeze(1) + torch.arange(r) / 8).to(dtype)
    words = f"{heads} head{'s' * (heads > 1)} of {d} rows" + " in bfloat16" * (dtype == torch.bfloat16)
    return Case((rows, heads), to_neighbours(rows, heads), words)
