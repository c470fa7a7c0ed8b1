"""Each cell's place when a lesson is shown as slides, derived from what the cell holds.

The result is Jupyter's standard metadata, `slideshow: {"slide_type": …}`, which jupyterlab-slideshow and nbconvert
read; a cell without it stands below the one before. The rule:

- A heading begins a `slide`; one of the third level a `subslide`, which is reached downwards.
- Code that shows nothing, such as imports and helpers, is skipped: `skip`. So are the sources.
- All else stands below the cell before as long as both fit on one screen, else it begins a `subslide`.
- A tag in the text, one of TAGS, overrules this.

What is higher than a screen, such as a long class, scrolls.
"""

import re
from collections.abc import Iterable
from math import ceil

from nbformat import NotebookNode

TAGS = {"slide": "slide", "subslide": "subslide", "skip": "skip", "below": None}
SCREEN = 24  # lines, at 1280 × 800 and in the size of letters that a talk has (peft_lessons/jupyter/talk.py)
LETTERS = 105  # in a line of prose
SHOWN_CODE = 16  # lines; longer code is folded in a talk
# Lines that an output takes, by the function that puts it out. Code that draws or asks is folded in a talk.
DRAWS = {
    "sweep": 20,
    "live_figure": 20,
    "progress_map": 16,
    "figure": 14,
    "quiz": 11,
    "compare": 8,
    "exercise": 7,
    "review": 3,
}
SHOWS = {"show": 22, "table": 7, "claim": 3, "print": 2}


def slide_types(cells: Iterable[NotebookNode]) -> list[str | None]:
    """The slide type of each cell; None for one that stands below the cell before."""
    types: list[str | None] = []
    filled = SCREEN
    for cell in cells:
        height = lines(cell)
        tags = [tag for tag in cell.metadata.get("tags", []) if tag in TAGS]
        types.append(TAGS[tags[0]] if tags else _by_rule(cell, height, filled))
        if types[-1] != "skip":
            filled = height + (filled if types[-1] is None else 0)
    return types


def _by_rule(cell: NotebookNode, height: int, filled: int) -> str | None:
    if cell.cell_type == "markdown" and (heading := re.match(r"(#+) (.*)", cell.source)):
        return "skip" if heading[2] == "Sources" else "subslide" if heading[1] == "###" else "slide"
    if not height:
        return "skip"
    return None if filled + height <= SCREEN or _continues_an_exercise(cell) else "subslide"


def _continues_an_exercise(cell: NotebookNode) -> bool:
    """Whether the cell is a starter or a check, which stay below their task."""
    return "exercise" in cell.metadata.get("tags", []) or ".check(" in cell.source


def lines(cell: NotebookNode) -> int:
    """About how many lines of a screen the cell takes; 0 when it shows nothing."""
    if cell.cell_type == "markdown":
        return 1 + sum(ceil(len(line) / LETTERS) or 1 for line in _as_shown(cell.source))
    shown = sum(height * _calls(cell, name) for name, height in (DRAWS | SHOWS).items())
    if not shown and not _continues_an_exercise(cell):
        return 0
    return shown + (1 if folded(cell) else len(cell.source.splitlines()))


def folded(cell: NotebookNode) -> bool:
    """Whether a talk shows what the cell puts out, and its code only on a click: where it draws, asks or is long."""
    if cell.cell_type != "code" or "exercise" in cell.metadata.get("tags", []):
        return False
    return any(_calls(cell, name) for name in (*DRAWS, "show")) or len(cell.source.splitlines()) > SHOWN_CODE


def _calls(cell: NotebookNode, name: str) -> int:
    return len(re.findall(rf"(?<![.\w]){name}\(", cell.source))


def _as_shown(markdown: str) -> list[str]:
    """The text's lines as they are shown: those of a paragraph joined, the items of a list apart."""
    return re.sub(r"(?<=\S)\n(?=[^\s\-*>|#\d])", " ", markdown).splitlines()
