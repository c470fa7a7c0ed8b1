"""A live figure whose kernel takes longer than the hand: the picture follows late, and only forwards.

On a busy machine any lesson's kernel is like this at times, so here it always is.
"""

import latency
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools.browser import lab

pytestmark = pytest.mark.browser
NAME = "slow"
FIGURE = """import time
from peft_lessons.classroom import live_figure

def setup(axes):
    return axes.plot([0, 1], [0, 0])[0]

def update(line, bits):
    time.sleep(0.3)
    line.set_ydata([0, bits / 8])
    return {"bits": bits}

live_figure(setup, update, settings={"bits": range(2, 9)}, title="t", caption="c", alt="a")"""
THERE_AND_BACK = 12  # presses: from the middle to the right end, to the left end, and over what was seen to the middle


def test_each_press_shows_its_own_picture(tmp_path, browser):
    """A press on the way back shows at once what was seen, and the kernel answers it later; by then it is old."""
    course = tmp_path / "course"
    course.mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=[new_code_cell(FIGURE)], metadata={"kernelspec": kernel})
    nbformat.write(notebook, course / f"{NAME}.ipynb")
    with lab.Server(tmp_path / "lab", course) as server:
        lesson = lab.Lesson(server, lab.new_context(browser), NAME)
        lesson.run_cell(0)
        times = latency.key_to_picture(lesson.cell(0).get_by_role("slider", name="bits"), THERE_AND_BACK)
        lesson.page.context.close()
    assert sum(milliseconds > 200 for milliseconds in times) >= 6, f"the kernel was not slow: {times}"
