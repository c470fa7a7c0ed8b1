"""Which outputs answer a *Predict*: a reader sees them once the cell is run, or unfolded.

They are those between the paragraph or `predict` that asks for a guess and the next text after a result. Quizzes,
reviews and exercises ask something themselves, so they stay in sight.
"""

from collections.abc import Iterable

from nbformat import NotebookNode

from peft_lessons.lessons.parts import calls_any

ASKS = "**Predict"


def answers(cells: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Return the code cells, in their order, whose outputs answer a prediction that was asked for above them."""
    found = []
    asked = answered = False
    for cell in cells:
        if cell.cell_type == "markdown":
            asked = ASKS in cell.source or (asked and not answered)
            answered = False
        elif calls_any(cell.source, asks="guess"):
            asked, answered = True, False
        elif asked and not _asks_itself(cell):
            found.append(cell)
            answered = answered or calls_any(cell.source, answers=True)
    return found


def _asks_itself(cell: NotebookNode) -> bool:
    asks = calls_any(cell.source, asks="itself") or ".check(" in cell.source
    return asks or "exercise" in cell.metadata.get("tags", [])
