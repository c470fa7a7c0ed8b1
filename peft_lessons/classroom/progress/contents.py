"""Count what each lesson holds, from its notebook as it is stored: `peft-lessons lessons`."""

import json
import re
from collections import Counter
from pathlib import Path

from peft_lessons import course
from peft_lessons.classroom.exercises import exercise_ids
from peft_lessons.classroom.output.figures import text_table
from peft_lessons.lessons.catalogue import lessons
from peft_lessons.lessons.parts import calls
from peft_lessons.lessons.questions import question_ids

# What is counted in an output's text form. The text of `compare` is what a model wrote, so its calls count.
KINDS = {
    "checks": re.compile(r"^    measured .*; expected ", re.MULTILINE),
    "widgets": re.compile(r"\A\[(Sweep|LiveFigure)\] |\A(?:Predict|Draw by hand:) "),
    "figures": re.compile(r"\A\[Figure\] "),
}
COLUMNS = ("lesson", *KINDS, "exercises", "questions", "reading", "running")


def counted(notebook: Path) -> Counter[str]:
    """Count a notebook's outputs by kind. Raises FileNotFoundError when there is none, ValueError for another file."""
    found: Counter[str] = Counter()
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        outputs = cell.get("outputs", [])
        found["widgets"] += bool(outputs) * calls("".join(cell["source"]), "compare")
        for output in outputs:
            text = "".join(output.get("data", {}).get("text/plain", ""))
            found.update({kind: len(pattern.findall(text)) for kind, pattern in KINDS.items()})
    return found


def contents(folder: Path = course.NOTEBOOKS) -> str:
    """Return a line for each lesson, and their sums."""
    rows: list[tuple[int, ...]] = []
    names = []
    for lesson in lessons():
        found = counted(folder / lesson.notebook)
        ids = exercise_ids(lesson.number), question_ids(lesson.number)
        minutes = lesson.reading_minutes, lesson.running_minutes
        rows.append((*(found[kind] for kind in KINDS), *map(len, ids), *minutes))
        names.append(f"{lesson.number} {lesson.title}")
    rows.append(tuple(map(sum, zip(*rows, strict=True))))
    names.append("all")
    return text_table([[name, *map(str, row)] for name, row in zip(names, rows, strict=True)], COLUMNS)
