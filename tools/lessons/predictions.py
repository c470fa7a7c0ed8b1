"""Which outputs answer a *Predict*: a reader sees them once the cell is run, or unfolded.

They are those between the paragraph or `predict` that asks for a guess and the next text after a result. Quizzes and
exercises ask something themselves, so they stay in sight.
"""

import re
from collections.abc import Iterable

from nbformat import NotebookNode

ASKS = "**Predict"
ASKS_FOR_A_GUESS = re.compile(r"(?<![.\w])predict\(")
RESULT = re.compile(r"(?<![.\w])(?:claim|compare|figure|live_figure|print|reveal|say|sweep|table)\(")
ASKS_ITSELF = re.compile(r"(?<![.\w])(?:quiz|exercise)\(|\.check\(")


def answers(cells: Iterable[NotebookNode]) -> list[NotebookNode]:
    """The code cells, in their order, whose outputs answer a prediction that was asked for above them."""
    found = []
    asked = answered = False
    for cell in cells:
        if cell.cell_type == "markdown":
            asked = ASKS in cell.source or (asked and not answered)
            answered = False
        elif ASKS_FOR_A_GUESS.search(cell.source):
            asked, answered = True, False
        elif asked and not ASKS_ITSELF.search(cell.source) and "exercise" not in cell.metadata.get("tags", []):
            found.append(cell)
            answered = answered or bool(RESULT.search(cell.source))
    return found
