"""The course's own lessons: text and notebook agree, and the guards find nothing."""

import ast

import nbformat
import pytest

from peft_lessons.classroom.exercises import exercise_ids, load_exercise
from peft_lessons.jupyter import slides
from peft_lessons.lessons.catalogue import lessons
from peft_lessons.lessons.parts import PARTS
from peft_lessons.lessons.questions import load_question
from tools.lessons import lesson_lint, notebooks

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


SECONDS = {name: part.seconds for name, part in PARTS.items()}


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.number)
def test_reading_minutes_are_counted(lesson):
    """By the rule in catalogue.py."""
    cells = notebooks.read_text(notebooks.NOTEBOOKS / lesson.notebook.replace(".ipynb", ".md")).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    calls = {
        name: [call for cell in code for call in lesson_lint.calls_in(cell.source, name)] for name in (*SECONDS, "say")
    }
    texts = [argument for name in ("say", "predict") for call in calls[name] for argument in call.args]
    words = sum(len(str(text.value).split()) for text in texts if isinstance(text, ast.Constant))
    words += sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    lines = [line for cell in code if not slides.folded(cell) for line in cell.source.splitlines() if line.strip()]
    minutes = words / 200 + len(lines) / 30 + sum(SECONDS[name] / 60 * len(calls[name]) for name in SECONDS)
    minutes += sum(load_exercise(which).minutes for which in exercise_ids(lesson.number))
    assert lesson.reading_minutes == pytest.approx(minutes, rel=0.05, abs=1)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_quizzes_are_stored_as_they_are_asked(path):
    """Questions are files of their own: text and notebook may agree while the stored quiz is an older one."""
    for cell in nbformat.read(path.with_suffix(".ipynb"), as_version=4).cells:
        for call in lesson_lint.calls_in(cell.source, "quiz") if cell.cell_type == "code" else ():
            digest = load_question(lesson_lint.first_argument(call)).digest
            (shown,) = (output.data["text/plain"] for output in cell.outputs)
            assert digest in shown, f"run `python -m tools.lessons.notebooks build {path.stem[:2]}`"
