"""The list of what each lesson holds, against the lessons' own texts."""

import json
import re
from pathlib import Path

import pytest

from peft_lessons import classroom
from peft_lessons import cli as command_line
from peft_lessons.classroom.exercises import exercise_ids
from peft_lessons.classroom.progress.contents import COLUMNS, contents, counted
from peft_lessons.course import NOTEBOOKS
from peft_lessons.lessons.catalogue import lessons
from peft_lessons.lessons.parts import PARTS, WITHOUT_OUTPUT
from peft_lessons.lessons.questions import question_ids


def test_every_lesson_and_the_sums(capsys):
    assert command_line.main(["lessons"]) == 0
    header, *lines, total = [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.strip().splitlines()]
    assert tuple(header) == COLUMNS
    assert [line[0] for line in lines] == [f"{lesson.number} {lesson.title}" for lesson in lessons()]
    numbers = [[int(cell) for cell in line[1:]] for line in lines]
    assert [int(cell) for cell in total[1:]] == [sum(column) for column in zip(*numbers, strict=True)]
    exercises, questions = COLUMNS.index("exercises") - 1, COLUMNS.index("questions") - 1
    assert sum(line[exercises] for line in numbers) == len(exercise_ids())
    assert sum(line[questions] for line in numbers) == sum(len(question_ids(lesson.number)) for lesson in lessons())
    figures = COLUMNS.index("figures") - 1  # where all of them move they count as widgets
    rest = [cell for line in numbers[1:] for at, cell in enumerate(line) if at != figures]
    assert all(cell > 0 for cell in rest), "each lesson but the first holds something of each"


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.number)
def test_widgets_and_figures_are_those_of_the_text(lesson):
    """Each call at the beginning of a line shows one; claims and facts stand elsewhere as well, so there are more."""
    text = (NOTEBOOKS / lesson.notebook).with_suffix(".md").read_text(encoding="utf-8")
    found = counted(NOTEBOOKS / lesson.notebook)
    widget = r"^(?:sweep|live_figure|predict|compare|\w+ = draw_letters)\("
    assert found["widgets"] == len(re.findall(widget, text, re.MULTILINE))
    assert found["figures"] == len(re.findall(r"^figure\(", text, re.MULTILINE))
    assert found["checks"] >= len(re.findall(r"^claim\(|(?<!\breveal\()\w+=fact\(", text, re.MULTILINE))


def test_only_outputs_count(tmp_path: Path):
    def output(text):
        return {"output_type": "display_data", "data": {"text/plain": text}}

    checks = "✔ 2 numbers checked\n  ✔ Two\n    measured 2; expected 2\n  ✔ Three\n    measured 3; expected 3"
    cells = [
        {"cell_type": "markdown", "source": "  ✔ no\n    measured 1; expected 1"},
        {"cell_type": "code", "source": "", "outputs": [output(checks), output("[Figure] a")]},
        {
            "cell_type": "code",
            "source": [],
            "outputs": [output(["[Sweep] b (rank: 1)\n", "c"]), output("✔ Exercise 03-merge")],
        },
        {"cell_type": "code", "source": ["x = 1\n", "compare(x)"], "outputs": [output("Ask: b\n  on: [Figure] c")]},
        {"cell_type": "code", "source": "compare(x)", "outputs": []},
        {"cell_type": "code", "source": "hand = draw_letters()", "outputs": [output("Draw by hand: A B")]},
    ]
    path = tmp_path / "lesson.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert counted(path) == {"checks": 2, "figures": 1, "widgets": 3}
    with pytest.raises(FileNotFoundError):
        contents(tmp_path)


def test_every_part_of_a_lesson_is_described_once():
    """What the classroom offers either shows something, and has its record, or shows nothing."""
    shown = set(PARTS) - {"print"}
    assert shown | set(WITHOUT_OUTPUT) == set(classroom.__all__)
    assert not shown & set(WITHOUT_OUTPUT)
