"""A student's way through: every lesson with all its exercises solved, and what an untouched notebook says of them.

The solved run replaces each starter by the reference solution in a copy and executes that copy from first to last cell.
"""

import lesson_guard
import nbformat
import pytest

import notebooks
from peft_lessons.classroom.exercises import load_exercise

LESSONS = pytest.mark.parametrize("path", notebooks.sources(), ids=lambda path: path.stem)


def solved(notebook):
    """The notebook, changed in place: solutions where the starters stand."""
    for cell in notebook.cells:
        if "exercise" in cell.metadata:
            cell.source = load_exercise(cell.metadata["exercise"]).solution
    return notebook


def verdicts(notebook):
    """{exercise: [title of each of its check's cards]}, read from the outputs."""
    found: dict[str, list[str]] = {}
    for which, number in lesson_guard.checked_exercises(notebook):
        texts = ["".join(output.get("data", {}).get("text/plain", "")) for output in notebook.cells[number].outputs]
        found.setdefault(which, []).extend(
            text.splitlines()[0] for text in texts if f"Exercise {which}: " in text.splitlines()[0]
        )
    return found


@LESSONS
def test_untouched_exercises_are_not_attempted(path):
    stored = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    assert verdicts(stored), "the lesson checks no exercise"
    for which, titles in verdicts(stored).items():
        assert titles == [f"○ Exercise {which}: not attempted"]


@pytest.mark.notebooks
@LESSONS
def test_solved_exercises_are_correct_and_the_lesson_runs_to_its_end(path):
    notebook = notebooks.execute(solved(notebooks.read_text(path)), path.parent)
    assert verdicts(notebook)
    for which, titles in verdicts(notebook).items():
        assert titles == [f"✔ Exercise {which}: correct"]
