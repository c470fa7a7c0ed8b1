"""What lessons are made of: one record for each function of the classroom that a cell calls.

Slides, folding, veiled results, reading minutes and the list of contents are derived from these records, so a new part
is described here and nowhere else.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """What a call shows.

    lines: of a slide, at 1280 × 800, that its output takes.
    folds: whether a cell that calls it is folded, since its code draws, asks or checks.
    answers: whether its output may answer what was asked before.
    asks: "guess" when the next cell answers, "itself" when its own output does, else nothing.
    seconds: that a reader spends with it.
    alive: whether a page without a kernel can show all of it, when a build has stored what it shows (frames.py).
    """

    lines: int
    folds: bool = True
    answers: bool = False
    asks: str = ""
    seconds: int = 0
    alive: bool = False


PARTS = {
    "sweep": Part(20, answers=True, seconds=60, alive=True),
    "live_figure": Part(20, answers=True, seconds=60, alive=True),
    "figure": Part(14, answers=True, seconds=60),
    "compare": Part(8, answers=True, seconds=60, alive=True),
    "table": Part(7, folds=False, answers=True),
    "print": Part(2, folds=False, answers=True),
    "show": Part(22, folds=False),
    "say": Part(4, answers=True),
    "claim": Part(1, answers=True),  # all claims of a cell share one line
    "evidence": Part(0),
    "predict": Part(7, asks="guess", seconds=30),
    "reveal": Part(2, answers=True),
    "quiz": Part(11, asks="itself", seconds=45),
    "review": Part(3, asks="itself"),
    "exercise": Part(7, asks="itself"),
    "draw_letters": Part(22, seconds=180),
    "progress_map": Part(16),
}
WITHOUT_OUTPUT = ("Frame", "Measured", "fact", "label_lines", "new_figure", "progress_bar", "quietly", "trained_once")


def calls(source: str, name: str) -> int:
    """Count how often a cell's source calls `name`."""
    return len(re.findall(rf"(?<![.\w]){name}\(", source))


def calls_any(source: str, **wanted: object) -> bool:
    """Whether a cell's source calls a part whose fields are as wanted, as in `calls_any(source, asks="guess")`."""
    return any(
        calls(source, name)
        for name, part in PARTS.items()
        if all(getattr(part, field) == value for field, value in wanted.items())
    )
