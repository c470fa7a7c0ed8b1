"""The course's own lessons: text and notebook agree, and the guards find nothing."""

import pytest

from peft_lessons.classroom.exercises import exercise_ids, load_exercise
from peft_lessons.lessons.catalogue import lessons
from peft_lessons.lessons.questions import question_ids
from tools.lessons import notebooks

TEXTS = notebooks.sources()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_text_and_notebook_agree(path):
    assert notebooks.differences(path) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_guards_find_nothing(path):
    assert notebooks.faults(path) == []


def test_the_course_is_what_its_list_says():
    assert notebooks.orphans() == []
    assert [path.with_suffix(".ipynb").name for path in TEXTS] == [lesson.notebook for lesson in lessons()]


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.number)
def test_reading_minutes_are_counted(lesson):
    """By the rule in catalogue.py."""
    cells = notebooks.read_text(notebooks.NOTEBOOKS / lesson.notebook.replace(".ipynb", ".md")).cells
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    code = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines() if line.strip()]
    exercises = sum(load_exercise(which).minutes for which in exercise_ids(lesson.number))
    minutes = words / 200 + len(code) / 30 + exercises + 0.75 * len(question_ids(lesson.number))
    assert lesson.reading_minutes == pytest.approx(minutes, rel=0.05, abs=1)
