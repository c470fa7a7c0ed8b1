"""Each cell's place when a lesson is shown as slides, derived from what the cell holds.

The result is Jupyter's standard metadata, `slideshow: {"slide_type": …}`, which jupyterlab-slideshow and nbconvert
read; a cell without it stands below the one before. The rule:

- A heading begins a `slide`; one of the third level a `subslide`, which is reached downwards.
- Code that shows nothing, such as imports and helpers, is skipped: `skip`. So are the sources.
- All else stands below the cell before as long as both fit on one screen, else it begins a `subslide`. So does what
  follows a question that asks for a guess.
- A tag in the text, one of TAGS, overrules this.

What is higher than a screen, such as a long class, scrolls.
"""

import ast
import re
from collections.abc import Iterable
from math import ceil

from nbformat import NotebookNode

from peft_lessons.lessons.parts import PARTS, calls, calls_any

TAGS = {"slide": "slide", "subslide": "subslide", "skip": "skip", "below": None}
SCREEN = 24  # lines, at 1280 × 800 and in the size of letters that a talk has (peft_lessons/jupyter/talk.py)
LETTERS = 105  # in a line of prose
SHOWN_CODE = 16  # lines; longer code is folded


def slide_types(cells: Iterable[NotebookNode]) -> list[str | None]:
    """Return the slide type of each cell; None for one that stands below the cell before."""
    types: list[str | None] = []
    filled = SCREEN
    for cell in cells:
        height = lines(cell)
        tags = [tag for tag in cell.metadata.get("tags", []) if tag in TAGS]
        types.append(TAGS[tags[0]] if tags else _by_rule(cell, height, filled))
        if types[-1] != "skip":
            filled = height + (filled if types[-1] is None else 0)
            filled = SCREEN if _asks_for_a_guess(cell) else filled  # the room votes before it sees what follows
    return types


def _by_rule(cell: NotebookNode, height: int, filled: int) -> str | None:
    if cell.cell_type == "markdown" and (heading := re.match(r"(#+) (.*)", cell.source)):
        return "skip" if heading[2] == "Sources" else "subslide" if heading[1] == "###" else "slide"
    if not height:
        return "skip"
    return None if filled + height <= SCREEN or _continues_an_exercise(cell) else "subslide"


def _asks_for_a_guess(cell: NotebookNode) -> bool:
    return "**Predict" in cell.source if cell.cell_type == "markdown" else calls_any(cell.source, asks="guess")


def _continues_an_exercise(cell: NotebookNode) -> bool:
    """Whether the cell is a starter or a check, which stay below their task."""
    return "exercise" in cell.metadata.get("tags", []) or ".check(" in cell.source


def lines(cell: NotebookNode) -> int:
    """About how many lines of a screen the cell takes; 0 when it shows nothing."""
    if cell.cell_type == "markdown":
        return 1 + sum(ceil(len(line) / LETTERS) or 1 for line in _as_shown(cell.source))
    counts = {name: calls(cell.source, name) for name in PARTS}
    counts["claim"] = min(counts["claim"], 1)
    shown = sum(PARTS[name].lines * count for name, count in counts.items())
    if not shown and not _continues_an_exercise(cell):
        return 0
    return shown + (1 if folded(cell) else len(cell.source.splitlines()))


def folded(cell: NotebookNode) -> bool:
    """Whether a lesson and its talk show what the cell puts out, and its code only on a click.

    So it is where code draws, asks, checks, only imports, or is long. The tags `open` and `fold` overrule this.
    """
    tags = cell.metadata.get("tags", [])
    if cell.cell_type != "code" or "exercise" in tags or "open" in tags:
        return False
    if "fold" in tags or "install" in tags or len(cell.source.splitlines()) > SHOWN_CODE:
        return True
    return ".check(" in cell.source or calls_any(cell.source, folds=True) or _only_imports(cell.source)


def _only_imports(source: str) -> bool:
    try:
        return all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(source).body)
    except SyntaxError:  # IPython's own lines
        return False


def _as_shown(markdown: str) -> list[str]:
    """Return the text's lines as they are shown: those of a paragraph joined, the items of a list apart."""
    return re.sub(r"(?<=\S)\n(?=[^\s\-*>|#\d])", " ", markdown).splitlines()
