"""`peft-lessons present`: what it refuses, and what the copy that it presents holds."""

import json
import subprocess
from pathlib import Path

import nbformat
import pytest

from peft_lessons import cli
from peft_lessons.classroom.exercises import exercise_ids
from peft_lessons.jupyter import talk
from peft_lessons.lessons.catalogue import lessons

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("wrong", ["77", "lora", "", "-1", "3.5"])
def test_a_wrong_lesson_is_told_what_there_is(wrong, capsys):
    assert cli.main(["present", "--", wrong]) == 2
    said = capsys.readouterr().err
    assert f"no lesson {wrong!r}" in said
    for lesson in lessons():
        assert f"{lesson.number}  {lesson.title}" in said


def test_make_hands_on_the_lesson_and_jupyters_options():
    # A make around this one, such as `make test`, would have it announce the folders that it enters and leaves.
    command = ["make", "--dry-run", "--no-print-directory", "present", "LESSON=03", "JUPYTER_FLAGS=--no-browser"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].endswith("peft_lessons present 03 --no-browser")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talk")
    return folder, talk.prepare(folder)


def test_everything_of_a_talk_lies_in_its_own_folder(home):
    folder, environment = home
    for name in ("IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "PEFT_LESSONS_HOME"):
        assert Path(environment[name]).is_relative_to(folder), name
    saving = folder / "settings/@jupyterlab/docmanager-extension/plugin.jupyterlab-settings"
    assert json.loads(saving.read_text(encoding="utf-8")) == {"autosave": False}


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.number)
def test_the_copy_differs_only_as_it_should(home, lesson):
    folder, _ = home
    copy, original = (
        nbformat.read(at / lesson.notebook, as_version=4) for at in (folder / "notebooks", ROOT / "notebooks")
    )
    solutions = [cell for cell in copy.cells if "solution" in cell.metadata.get("tags", [])]
    assert len(solutions) == len(exercise_ids(lesson.number))
    for cell in solutions:
        before = copy.cells[copy.cells.index(cell) - 1]
        assert before.source.startswith(cell.source.replace(".solution()", ".check("))
        assert cell.outputs == [] and cell.metadata.slideshow.slide_type == "subslide"
        rest = copy.cells[copy.cells.index(cell) + 1 :]
        types = [after.metadata.get("slideshow", {}).get("slide_type") for after in rest]
        assert next(kind for kind in types if kind != "skip") in ("slide", "subslide"), "it shares its slide"
    kept = [cell for cell in copy.cells if cell not in solutions]
    folded = [cell for cell in kept if cell.metadata.pop("jupyter", None) == {"source_hidden": True}]
    for cell in original.cells:
        cell.metadata.pop("slideshow", None)
        cell.metadata.pop("jupyter", None)  # a talk has its stored results at hand
        if cell.cell_type == "code":
            cell.execution_count = None
    for cell in kept:
        cell.metadata.pop("slideshow", None)
    assert kept == original.cells
    assert folded and all(cell.cell_type == "code" and "exercise" not in cell.metadata for cell in folded)
    assert "jupytext" not in copy.metadata
