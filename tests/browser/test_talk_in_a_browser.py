"""`make present` as a teacher meets it: the command itself, its page in a browser, and what is left afterwards."""

import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from peft_lessons.lessons.notes import load_talk
from peft_lessons.lessons.questions import load_question
from tools.browser import lab

pytestmark = pytest.mark.browser
NAME = "00_start_here"
RAN = """() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    if (!panel?.content?.widgets) return false;
    const code = panel.content.widgets.filter(cell => cell.model.type === "code");
    const solutions = code.filter(cell => (cell.model.getMetadata("tags") ?? []).includes("solution"));
    return document.body.dataset.jpDeckMode === "presenting" && solutions.length > 0
        && code.every(cell => solutions.includes(cell) || (cell.model.executionCount && cell.prompt !== "*"));
}"""
SOLUTION = ".cm-content:has-text('share_exercise.solution()')"
ON_SCREEN = ".jp-deck-mod-onscreen.jp-deck-mod-visible"
SMALLEST = 18  # px, as a room sees it; indices, formulas, drawings and prompts are left out
SMALL = """(cells, smallest) => cells.flatMap(cell => [...cell.querySelectorAll("*")]).filter(node =>
    [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())
    && node.checkVisibility()
    && node.getClientRects().length
    && !node.closest("sub, sup, svg, mjx-container, .jp-InputPrompt, .jp-OutputPrompt, .jp-InputPlaceholder")
    && parseFloat(getComputedStyle(node).fontSize) < smallest - 0.5
).map(node => [getComputedStyle(node).fontSize, node.tagName, node.className, node.textContent.trim().slice(0, 40)])"""


class Talk(lab.Lesson):
    """A lesson that starts and runs by itself."""

    def load(self):
        self.page.goto(f"{self.server.url}/doc/tree/{self.name}.ipynb?token={self.server.token}")
        self.page.wait_for_function(RAN, polling=lab.POLL, timeout=600_000)


def present(*arguments, **variables):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "peft_lessons",
            "present",
            *arguments,
            "--no-browser",
            "--allow-root",
            "--LabApp.expose_app_in_browser=True",
        ],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def heading(page):
    return page.locator(ON_SCREEN).first.inner_text().splitlines()[0].removesuffix("¶")


def place(page):
    """The active cell and how far its slide is scrolled."""
    return page.evaluate(
        """() => {
            const notebook = window.jupyterapp.shell.currentWidget.content;
            return [notebook.activeCellIndex, notebook.node.querySelector(".jp-WindowedPanel-outer").scrollTop];
        }"""
    )


def turn(page, key="PageDown"):
    """Press a key; whether anything moved."""
    before = place(page)
    page.keyboard.press(key)
    for _ in range(50):
        if place(page) != before:
            return True
        page.wait_for_timeout(100)
    return False


def show(page, selector, key="PageDown"):
    """Turn slides until one shows `selector`, which is returned."""
    found = page.locator(f"{ON_SCREEN} {selector}")
    while not found.count():
        assert turn(page, key), f"no slide shows {selector}"
    return found.first


def test_a_talk_from_start_to_end(tmp_path, browser):
    own = tmp_path / "own progress"
    before = (lab.NOTEBOOKS / f"{NAME}.ipynb").read_bytes()
    command = present("0", PEFT_LESSONS_HOME=str(own), TMPDIR=str(tmp_path))
    context = lab.new_context(browser, width=1280, height=800)
    small: list[list[str]] = []
    try:
        printed = ""
        while not (address := re.search(r"(http://127\.0\.0\.1:\d+)/doc/tree/(\w+)\.ipynb\?token=(\w+)", printed)):
            line = command.stdout.readline()
            assert line, f"it ended after\n{printed}"
            printed += line
        assert address[2] == NAME
        for part in load_talk("00").parts:
            assert part.heading in printed

        lesson = Talk(SimpleNamespace(url=address[1], token=address[3]), context, NAME)
        page = lesson.page
        assert lesson.errors() == []
        assert heading(page) == "00 · Start here"

        assert turn(page) and heading(page).startswith("This is SmolLM2")
        assert turn(page, "PageUp") and heading(page) == "00 · Start here"
        slider = show(page, "form.peft-predict input[type=range]")
        assert page.locator(f"{ON_SCREEN} .jp-InputPlaceholder").count(), "the code that asks is folded"
        slider.focus()
        assert turn(page), "a remote control turns slides wherever the focus is"

        quiz = show(page, "form.peft-quiz")
        quiz.locator(f"input[value={load_question('00-claim').key}]").check()
        quiz.get_by_role("button", name="Check answer").click()
        quiz.get_by_role("status").filter(has_text="Correct").wait_for()

        show(page, SOLUTION)
        assert not page.locator(f"{ON_SCREEN} .jp-OutputArea-output").count()
        assert turn(page, "Control+Enter") is False
        page.locator(f"{ON_SCREEN} .jp-OutputArea-output").get_by_text("def trainable_share").wait_for()
        while turn(page):
            pass
        assert heading(page) == "Next step"
        while turn(page, "PageUp"):
            small += page.locator(ON_SCREEN).evaluate_all(SMALL, SMALLEST)
        assert small == []
        assert lesson.page_errors == []  # later a restart cancels what JupyterLab asked the old kernel: its own errors

        page.on("dialog", lambda dialog: dialog.accept())  # "leave the page?"
        lesson.load()
        assert heading(page) == "00 · Start here"
        quiz = show(page, "form.peft-quiz")
        assert not quiz.locator("input:checked").count() and quiz.get_by_role("status").all_inner_texts() == [""] * 5
        show(page, SOLUTION)
        assert not page.locator(f"{ON_SCREEN} .jp-OutputArea-output").count()
        assert lesson.blocked == []
    finally:
        context.close()
        command.send_signal(signal.SIGINT)
        rest, _ = command.communicate(timeout=60)
    assert command.returncode == 0, rest
    assert (lab.NOTEBOOKS / f"{NAME}.ipynb").read_bytes() == before
    assert not own.exists()
    assert not list(tmp_path.glob("peft-lessons-*")), "the folder of the talk is still there"
