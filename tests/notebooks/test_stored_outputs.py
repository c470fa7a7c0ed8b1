"""What nbval compares, and that it sees the same in a run that was recorded as in one that it makes itself.

Whole lessons are run once, in JupyterLab, and compared there: tests/browser/test_lessons_in_jupyterlab.py.
"""

import re

import nbformat
import nbval.plugin
import pytest
from replay import SANITIZE, replay

from tools.lessons import lesson_lint, notebooks

LESSONS = pytest.mark.parametrize("path", notebooks.sources(), ids=lambda path: path.stem)


SHORT = notebooks.NOTEBOOKS / "00_start_here.ipynb"


@pytest.mark.notebooks
def test_a_run_that_nbval_makes_itself(tmp_path):
    done = replay(SHORT, tmp_path)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-3000:]


# What a run may do otherwise than it is stored, each in a cell of its own, and the words in which nbval says so.
def otherwise(cell):
    cell.outputs[0].data["text/plain"] += "!"


def silent(cell):
    cell.outputs = []


def fails(cell):
    cell.outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])]


def warns(cell):
    cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text="Failed to load CPU gemm_4bit_forward"))


def has_other_code(cell):
    cell.source += "\npass"


CHANGES = {
    otherwise: "mismatch 'text/plain'",
    silent: "Missing output fields from running code",
    fails: "Cell execution caused an exception",
    warns: "Unexpected output fields from running code: {'stderr'}",
    has_other_code: "the run has another cell here",
}


@pytest.mark.slow
def test_a_recorded_run_is_compared_as_any_other(tmp_path):
    run = nbformat.read(SHORT, as_version=4)
    code = [cell for cell in run.cells if cell.cell_type == "code"]
    changed = [number for number, cell in enumerate(code) if cell.outputs and "data" in cell.outputs[0]][: len(CHANGES)]
    for number, change in zip(changed, CHANGES, strict=True):
        change(code[number])
    nbformat.write(run, tmp_path / "run.ipynb")
    done = replay(SHORT, tmp_path, run=tmp_path / "run.ipynb")
    reports = re.split(r"^_+ .*::Cell (\d+) _+$", done.stdout, flags=re.MULTILINE)
    assert [int(number) for number in reports[1::2]] == changed, done.stdout
    for report, words in zip(reports[2::2], CHANGES.values(), strict=True):
        assert words in report


@LESSONS
def test_untouched_exercises_are_not_attempted(path):
    stored = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    checks = lesson_lint.checked_exercises(stored)
    assert checks, "the lesson checks no exercise"
    for which, number in checks:
        cards = ["".join(output.get("data", {}).get("text/plain", "")) for output in stored.cells[number].outputs]
        titles = [card.splitlines()[0] for card in cards if f"Exercise {which}: " in card]
        assert titles == [f"○ Exercise {which}: not attempted"]


@pytest.mark.parametrize(
    ("here", "there", "same"),
    [
        ("measured 0.5771 · expected 0.577", "measured 0.5769 · expected 0.577", True),
        ("measured 1.2e-07 · expected", "measured −3e-08 · expected", True),
        ("measured 12,288 · expected", "measured 9 · expected", True),
        ("measured 0.5771 · expected 0.577", "measured 0.5771 · expected 0.578", False),
        ("measured True", "measured False", False),
        ("error ≈ 1.23   bits 4", "error ≈ 1.2    bits 4", True),
        ("error ≈ −1.23e−05 bits 4", "error ≈ 0.1 bits 4", True),
        ("error 1.23 bits 4", "error 1.24 bits 4", False),
        ('src="data:image/png;base64,AB+/="> a', 'src="data:image/png;base64,CD"> a', True),
        ('src="data:image/png;base64,AB"> a', 'src="data:image/png;base64,AB"> b', False),
        ('src="data:image/png;base64,AB"', 'src="data:image/svg+xml;base64,AB"', False),
    ],
)
def test_only_what_may_differ_is_replaced(here, there, same):
    patterns = nbval.plugin.get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8"))

    def sanitized(text):
        for pattern, replacement in patterns:
            text = re.sub(pattern, replacement, text)
        return text

    assert (sanitized(here) == sanitized(there)) is same
