"""Every lesson, run again by nbval with a fresh kernel and progress store: each cell must print what is stored."""

import re

import lesson_guard
import nbformat
import nbval.plugin
import pytest
from replay import SANITIZE, replay

import notebooks

LESSONS = pytest.mark.parametrize("path", notebooks.sources(), ids=lambda path: path.stem)


@pytest.mark.notebooks
@LESSONS
def test_outputs_are_those_stored(path, tmp_path):
    done = replay(path.with_suffix(".ipynb"), tmp_path)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-3000:]


@LESSONS
def test_untouched_exercises_are_not_attempted(path):
    stored = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    checks = lesson_guard.checked_exercises(stored)
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
