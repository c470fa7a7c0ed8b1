"""Which stored outputs wait for a reader's guess."""

import nbformat
import pytest

from peft_lessons.jupyter import slides
from tools.lessons import notebooks
from tools.lessons.predictions import answers

ASKED = "**Predict:** which is larger?"
RESULT = 'claim("one", 1, equals=1)'


@pytest.mark.parametrize("call", ["claim(", "figure(", "table(", "sweep(", "live_figure(", "compare(", "print("])
def test_what_answers_is_found_and_what_follows_the_next_text_is_not(make, call):
    preparing, result, picture = make.code("import torch"), make.code(f"value = {call}1)"), make.code("figure(fig)")
    after = make.code(RESULT)
    cells = [make.code(RESULT), make.prose(ASKED), preparing, result, picture, make.prose("The first."), after]
    assert answers(cells) == [preparing, result, picture]


def test_text_before_the_result_does_not_answer(make):
    shown, result, after = make.code("show(train)"), make.code(RESULT), make.code(RESULT)
    cells = [make.prose(ASKED), make.prose("So."), shown, make.prose("Now run it."), result, make.prose("Ah."), after]
    assert answers(cells) == [shown, result]


def test_nothing_asked_nothing_hidden(make):
    assert answers([make.prose("We predict nothing."), make.code(RESULT)]) == []


def test_quizzes_and_exercises_stay_in_sight(make):
    asks = [
        make.code('quiz("03-start")'),
        make.code('review("03")'),
        make.code('task = exercise("03-forward")'),
        make.code("task.check(solved)"),
    ]
    starter = make.code("def solved(x):\n    return ...", tags=["exercise"])
    result = make.code(RESULT)
    assert answers([make.prose(ASKED), *asks, starter, result]) == [result]


@pytest.mark.parametrize("path", notebooks.sources(), ids=lambda path: path.stem)
def test_stored_lessons_fold_their_answers_and_nothing_else(path):
    cells = nbformat.read(path.with_suffix(".ipynb"), as_version=4).cells
    hidden = [cell for cell in cells if cell.metadata.get("jupyter", {}).get("outputs_hidden")]
    assert hidden == answers(cells)
    folded = [cell for cell in cells if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert folded == [cell for cell in cells if slides.folded(cell)]
    asked = [cell for cell in cells if "**Predict" in cell.source or "predict(\n" in cell.source]
    assert asked, "a lesson asks for a guess"
    assert len(hidden) >= len(asked) and any(cell.outputs for cell in hidden)
