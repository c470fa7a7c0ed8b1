"""The chain must fail when the course is wrong: one thing broken at a time, and the link that has to notice it.

What breaks the package is done to a copy that stands before the real one on PYTHONPATH. The first test runs the same
chain on an unchanged copy, so that a failure below is due to the change and to nothing else.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from replay import replay

from tools.lessons import lesson_lint, notebook_lint, notebooks

pytestmark = pytest.mark.notebooks
PACKAGE = Path(__file__).resolve().parents[2] / "peft_lessons"
FIXTURE = Path(__file__).with_name("lesson.md")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("course") / "notebooks" / "03_small.md"
    path.parent.mkdir()
    shutil.copy(FIXTURE, path)
    notebooks.build(path)
    return path


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package that a test may break; `replayed` imports it from there."""
    folder = tmp_path / "broken" / "peft_lessons"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) >= 1, f"{path.name} no longer has {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def replayed(notebook: Path, package: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return replay(notebook, tmp_path, PYTHONPATH=str(package.parent), PYTHONDONTWRITEBYTECODE="1")


def test_an_unchanged_copy_passes(built, package, tmp_path):
    done = replayed(built.with_suffix(".ipynb"), package, tmp_path)
    assert done.returncode == 0, done.stdout


def flip_key(package: Path) -> None:
    bank = package / "lessons/l01_overview_of_peft/questions.toml"
    first, second, rest = bank.read_text(encoding="utf-8").split("[[question.option]]", 2)
    swapped = [
        second.replace("correct = false", "correct = true"),
        rest.replace("correct = true", "correct = false", 1),
    ]
    assert swapped != [second, rest]
    bank.write_text("[[question.option]]".join([first, *swapped]), encoding="utf-8")


# What is broken, and the words that nbval must find in the one cell of the small lesson that shows it.
BROKEN = {
    "a level of NF4": (
        lambda package: change(package / "quantization/codebooks.py", "0.07958029955625534", "0.08958029955625534"),
        "this does not hold: 'The smallest positive level of NF4",
    ),
    "LoRA's scaling": (
        lambda package: change(package / "methods/lora.py", "self.alpha / (", "self.alpha * ("),
        "this does not hold: 'The scaling of rank 4 with alpha 8 is 2'",
    ),
    "a quiz's key": (flip_key, "✔ Correct. The pretrained model stays exactly as large"),
    "the verdict on an exercise": (
        lambda package: change(
            package / "classroom/exercises/exercise.py",
            'return "not attempted", "Replace',
            'return "correct", "Replace',
        ),
        "✔ Exercise 03-merge: correct",
    ),
    "a sweep's numbers": (
        lambda package: change(
            package / "classroom/widgets/sweep.py", "number(value) for value in frame", "'0' for value in frame"
        ),
        "Higher powers",
    ),
}


def test_nbval_notices_everything_that_is_broken_in_the_package(built, package, tmp_path):
    """One run for all of them, since each shows in a cell of its own: that cell fails, and no other does."""
    for mutate, _ in BROKEN.values():
        mutate(package)
    done = replayed(built.with_suffix(".ipynb"), package, tmp_path)
    assert done.returncode == 1
    reports = re.split(r"^_+ .*::Cell (\d+) _+$", done.stdout, flags=re.MULTILINE)
    failed = dict(zip(map(int, reports[1::2]), reports[2::2], strict=True))
    assert list(failed) == [1, 2, 3, 5, 6], done.stdout
    for (broken, (_, words)), report in zip(BROKEN.items(), failed.values(), strict=True):
        assert words in report, f"{broken} made the cell fail otherwise:\n{report}"


def test_the_guard_notices_cleared_outputs(built):
    """nbval alone would pass such a notebook, whatever its keys say."""
    notebook = nbformat.read(built.with_suffix(".ipynb"), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    assert sum("never run" in problem for problem in notebook_lint.problems(notebook)) == 8


def test_parity_notices_an_edited_text(built, tmp_path):
    text = Path(shutil.copy(built, tmp_path))
    shutil.copy(built.with_suffix(".ipynb"), tmp_path)
    assert notebooks.differences(text) == []
    change(text, "One of each", "Some of each")
    assert "source of cell 0 differs" in notebooks.differences(text)[0]


def test_the_guard_notices_a_changed_number(built):
    notebook = nbformat.read(built.with_suffix(".ipynb"), as_version=4)
    assert list(lesson_lint.numbers_are_claimed(notebook)) == []
    prose = next(cell for cell in notebook.cells if "7.96 %" in cell.source)
    prose.source = prose.source.replace("7.96 %", "8.96 %")
    assert "'8.96 %'" in next(lesson_lint.numbers_are_claimed(notebook))


@pytest.mark.skipif("PEFT_LESSONS_SKIP_JS" in os.environ, reason="PEFT_LESSONS_SKIP_JS is set")
def test_the_widgets_own_tests_notice_a_broken_script(package, tmp_path):
    """nbval runs no script. A syntax error stops the tests that run the widgets under node, and they alone see it."""
    tests = Path(__file__).resolve().parents[1]
    files = [tests / f"test_{name}.py" for name in ("quiz", "progress", "sweep", "live_figure")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:nbval", "-p", "no:cacheprovider", *map(str, files)]
    command += ["-k", "front_end or browser", "-o", "pythonpath="]  # the broken copy, not this checkout
    broken = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}

    def failed() -> set[str]:
        done = subprocess.run(command, cwd=tmp_path, env=broken, capture_output=True, text=True)
        return set(re.findall(r"^FAILED .*?test_(\w+)\.py", done.stdout, re.MULTILINE))

    assert failed() == set()
    for script in ("quiz.js", "progress.js", "sweep.js", "live_figure.js"):
        change(package / "classroom/widgets" / script, "function render(", "function render((")
    assert failed() == {"quiz", "progress", "sweep", "live_figure"}


def test_a_flipped_key_stops_a_real_lesson(package, tmp_path):
    """Lesson 01 up to its first question: quick, and as a reader has it."""
    (path,) = notebooks.sources(["01"])
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    end = next(number for number, cell in enumerate(notebook.cells) if 'quiz("01-goal"' in cell.source)
    notebook.cells = notebook.cells[: end + 1]
    start = tmp_path / path.with_suffix(".ipynb").name
    notebooks.write(notebook, start)
    assert replayed(start, package, tmp_path).returncode == 0
    flip_key(package)
    done = replayed(start, package, tmp_path)
    assert done.returncode == 1 and "01-goal" in done.stdout
