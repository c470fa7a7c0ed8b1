"""A lesson that was used, saved and closed, opened again the next day: as it was left, and no kernel is needed for it.

The lesson is a small one of this test's own, handed out as the course's are: two quizzes, a slider, the map, a review,
letters drawn by hand, a stored output that is never run, and one whose widget was not saved.
"""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from peft_lessons.classroom.progress.working_copies import reset
from peft_lessons.lessons.questions import load_question
from tools.browser import lab

pytestmark = pytest.mark.browser
NAME, KEY = "00_start_here", load_question("00-wrong-answer").key
SETUP = "from peft_lessons.classroom import Frame, draw_letters, progress_map, quiz, review, sweep"
SWEEP = """sweep(
    lambda rank: Frame(series={"y": [rank, 2]}, readouts={"rank": str(rank)}),
    settings={"rank": (1, 2, 4)}, x=[1, 2], x_label="x", y_label="y", title="t", caption="c", alt="a",
)"""
CELLS = [SETUP, 'quiz("00-wrong-answer")', 'quiz("01-goal")', SWEEP, "progress_map()", 'review("02")']
CELLS += ['hand = draw_letters("Aa")']
LOST = {"application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": "0" * 32}}
DRAWING = "<svg class='drawn' width='9' height='9'></svg>"  # what JupyterLab removes where it does not trust


@pytest.fixture(scope="module")
def used(tmp_path_factory, browser):
    """The lesson, used and saved, its kernel ended."""
    course = tmp_path_factory.mktemp("course")
    stored = [
        {"text/html": DRAWING, "text/plain": "drawing"},
        LOST | {"text/markdown": "**As text**", "text/plain": "t"},
    ]
    cells = [new_code_cell(source) for source in CELLS]
    cells += [new_code_cell("1", outputs=[new_output("display_data", data=data)]) for data in stored]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), course / f"{NAME}.ipynb")
    with lab.Server(tmp_path_factory.mktemp("lab") / "home", course) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JUPYTER_DATA_DIR", str(server.home / "data"))
            reset("00", server.folder, course)
        lesson = lab.Lesson(server, lab.new_context(browser), NAME)
        for number in range(5):
            lesson.run_cell(number)
        answer(lesson, 1, KEY)
        answer(lesson, 2, wrong := next(o.letter for o in load_question("01-goal").options if not o.correct))
        lesson.wrong = wrong
        lesson.run_cell(5)
        lesson.run_cell(6)
        draw(lesson, 6)
        lesson.cell(3).get_by_role("slider", name="rank").focus()
        lesson.page.keyboard.press("End")
        lesson.page.wait_for_timeout(500)
        close(lesson)
        yield lesson
        lesson.page.context.close()


def answer(lesson, number, letter):
    form = lesson.cell(number).locator("form.peft-quiz")
    form.locator(f"input[value={letter}]").check()
    form.get_by_role("button", name="Check answer").click()
    form.locator(f"[data-verdict]:has(input[value={letter}])").get_by_role("status").filter(has_text=".").wait_for()


def draw(lesson, number):
    """A slanted line in the square of this cell."""
    square = lesson.cell(number).locator(".peft-square")
    square.scroll_into_view_if_needed()
    box = square.bounding_box()
    lesson.page.mouse.move(box["x"] + 30, box["y"] + 30)
    lesson.page.mouse.down()
    lesson.page.mouse.move(box["x"] + 100, box["y"] + 200, steps=8)
    lesson.page.mouse.up()
    lesson.cell(number).get_by_text("1 of 2 letters drawn. What you draw is kept with your progress.").wait_for()


def close(lesson):
    lesson.save()
    lesson.end_kernel()


def states(lesson):
    """The saved state of each widget, by its id."""
    metadata = nbformat.read(lesson.server.folder / f"{NAME}.ipynb", as_version=4).metadata
    return metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})


@pytest.mark.parametrize("times", [1, 2])
def test_all_is_as_it_was_left_however_often_it_is_saved(used, times, pictures):
    used.load()
    page = used.page
    answered, tried = (used.cell(number).locator("form.peft-quiz") for number in (1, 2))
    answered.get_by_text("Saved view: run this cell to answer again.").wait_for()
    answered.get_by_text("✔ Correct.").wait_for()
    assert answered.locator(f"input[value={KEY}]").is_checked()
    tried.get_by_text("✘ Not this one.").wait_for()
    tried.get_by_text("Saved view: run this cell to answer.").wait_for()
    assert tried.locator(f"input[value={used.wrong}]").is_checked() and tried.get_by_role("button").count() == 0
    slider = used.cell(3).get_by_role("slider", name="rank")
    assert slider.get_attribute("aria-valuetext") == "4"
    before = used.cell(3).locator("svg [data-series]").first.get_attribute("d")
    slider.focus()
    page.keyboard.press("Home")
    assert used.cell(3).locator("svg [data-series]").first.get_attribute("d") != before, "it needs no kernel"
    page.keyboard.press("End")
    used.cell(4).get_by_text("Start here").first.wait_for()
    assert used.cell(5).get_by_text("a question of earlier lessons that went wrong").is_visible()
    assert used.cell(5).locator("form.peft-quiz").get_by_text("Saved view").is_visible()
    used.cell(6).get_by_text("1 of 2 letters drawn. Saved view: run this cell to draw.").wait_for()
    assert used.cell(6).get_by_role("radio", name="capital A, drawn").count() == 1
    assert used.cell(7).locator("svg.drawn").count() == 1, "the copy came back untrusted"
    used.cell(8).get_by_text("Saved view: run this cell to use it.").wait_for()
    assert used.cell(8).locator("strong").inner_text() == "As text"
    assert used.errors() == [] and used.page_errors == []
    page.screenshot(path=pictures / f"next-day-{times}.png")
    assert len([state for state in states(used).values() if state["model_name"] == "AnyModel"]) == 6
    close(used)


def test_running_a_cell_brings_it_back_and_what_is_not_shown_is_not_saved(used, pictures):
    used.load()
    form = used.cell(1).locator("form.peft-quiz")
    form.get_by_text("Saved view").wait_for()
    used.run_cell(0)
    used.run_cell(1)
    form.get_by_role("button", name="Answer again").click()
    answer(used, 1, KEY)
    assert "Saved view" not in form.inner_text()
    used.run_cell(6)
    used.cell(6).get_by_text("1 of 2 letters drawn. What you draw is kept with your progress.").wait_for()
    assert used.cell(6).locator(".peft-task").inner_text().endswith("small a"), "A is there, a is next"
    used.save()
    assert len([state for state in states(used).values() if state["model_name"] == "AnyModel"]) == 6
    used.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    form.get_by_text("Saved view").wait_for()
    used.command("notebook:clear-all-cell-outputs")
    used.save()
    assert states(used) == {}
