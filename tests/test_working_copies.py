"""Working copies: what an upgrade may replace, what it must keep, and what a reset leaves behind."""

import json
import os
import shutil
from pathlib import Path

import pytest

from peft_lessons import cli as command_line
from peft_lessons.classroom.progress import working_copies
from peft_lessons.classroom.progress.working_copies import HANDED_OUT, copy_lessons, reset
from peft_lessons.course import NOTEBOOKS, program
from peft_lessons.lessons.catalogue import lessons

NAMES = tuple(lesson.notebook for lesson in lessons())
NAME = NAMES[3]


@pytest.fixture
def course(tmp_path):
    """A course that a test may upgrade: the real notebooks with two cells each."""
    folder = tmp_path / "course"
    folder.mkdir()
    for name in NAMES:
        notebook = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
        notebook["cells"] = notebook["cells"][:2]
        (folder / name).write_text(json.dumps(notebook), encoding="utf-8")
    return folder


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


def edit(path, text, cell=1):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["cells"][cell]["source"] = text
    path.write_text(json.dumps(notebook), encoding="utf-8")


def run(path):
    """What running a lesson and saving it does to the file."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["cells"][1] |= {"outputs": [], "execution_count": 7, "metadata": {"trusted": True}}
    path.write_text(json.dumps(notebook, indent=2), encoding="utf-8")


def source(path, cell=1):
    return "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][cell]["source"])


def test_the_first_time_all_is_new(work, course):
    copied = copy_lessons(work, course)
    assert copied.new == NAMES and not copied.replaced and not copied.kept
    for name in NAMES:
        notebook = json.loads((work / name).read_text(encoding="utf-8"))
        original = json.loads((course / name).read_text(encoding="utf-8"))
        assert "jupytext" not in notebook["metadata"] and notebook["cells"] == original["cells"]
    again = copy_lessons(work, course)
    assert not (again.new or again.replaced or again.kept)


def test_what_was_only_run_is_replaced_by_a_newer_version(work, course):
    copy_lessons(work, course)
    run(work / NAME)
    before = (work / NAME).read_bytes()
    copy_lessons(work, course)
    assert (work / NAME).read_bytes() == before, "without a newer version not even outputs change"
    edit(course / NAME, "new = 1")
    assert copy_lessons(work, course).replaced == (NAME,)
    assert source(work / NAME) == "new = 1"


def test_what_was_changed_is_kept_and_named(work, course):
    copy_lessons(work, course)
    edit(work / NAME, "mine = 1")
    before = (work / NAME).read_bytes()
    assert not copy_lessons(work, course).kept, "without a newer version there is nothing to say"
    edit(course / NAME, "new = 1")
    for _ in range(2):
        copied = copy_lessons(work, course)
        assert copied.kept == (NAME,) and program("reset 03") in str(copied)
    assert (work / NAME).read_bytes() == before


def test_an_empty_cell_at_the_end_is_no_change(work, course):
    """JupyterLab adds one when the last cell is run with Shift+Enter."""
    copy_lessons(work, course)
    notebook = json.loads((work / NAME).read_text(encoding="utf-8"))
    notebook["cells"].append(
        {"cell_type": "code", "source": "", "outputs": [], "metadata": {}, "execution_count": None}
    )
    (work / NAME).write_text(json.dumps(notebook), encoding="utf-8")
    edit(course / NAME, "new = 1")
    assert copy_lessons(work, course).replaced == (NAME,)


def test_without_news_nothing_is_written(work, course, monkeypatch):
    """A full disk, or a folder that one may only read, does not keep anybody out."""
    copy_lessons(work, course)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(working_copies, "write_text", full)
    assert not copy_lessons(work, course).new


def test_a_reset_that_finds_no_room_leaves_the_old_one(work, course, monkeypatch):
    copy_lessons(work, course)
    edit(work / NAME, "mine = 1")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(working_copies, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        reset("03", work, course)
    assert source(work / NAME) == "mine = 1" and not list(work.glob("*backup*"))


def test_a_folder_of_somebody_else_is_named_with_a_way_out(work, course, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(working_copies.Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match="PEFT_LESSONS_WORK to a folder of yours"):
        copy_lessons(work, course)


@pytest.mark.parametrize("chosen", ["here", "~/there", "/absolute"])
def test_the_folder_is_a_whole_path_whatever_was_given(chosen, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEFT_LESSONS_WORK", chosen)
    names = {"here": tmp_path / "here", "~/there": tmp_path / "there", "/absolute": Path("/absolute")}
    assert working_copies.folder() == names[chosen]


@pytest.mark.parametrize("broken", ["{", "[]", '{"cells": 3}', ""])
def test_what_is_no_notebook_is_kept(work, course, broken):
    copy_lessons(work, course)
    (work / NAME).write_text(broken, encoding="utf-8")
    edit(course / NAME, "new = 1")
    assert copy_lessons(work, course).kept == (NAME,)
    assert (work / NAME).read_text(encoding="utf-8") == broken


@pytest.mark.parametrize("record", [None, "{", "[]"])
def test_without_the_record_everything_that_differs_is_kept(work, course, record):
    copy_lessons(work, course)
    edit(work / NAME, "mine = 1")
    (work / HANDED_OUT).unlink()
    if record is not None:
        (work / HANDED_OUT).write_text(record, encoding="utf-8")
    assert copy_lessons(work, course).kept == (NAME,)
    assert source(work / NAME) == "mine = 1"


def test_what_was_deleted_comes_back_and_what_is_a_students_own_stays(work, course):
    copy_lessons(work, course)
    (work / NAME).unlink()
    (work / "notes.ipynb").write_text("mine")
    assert copy_lessons(work, course).new == (NAME,)
    assert (work / "notes.ipynb").read_text() == "mine"


def test_reset_puts_a_fresh_one_and_keeps_the_old(work, course):
    copy_lessons(work, course)
    for text in ("first = 1", "second = 2"):
        edit(work / NAME, text)
        fresh, backup = reset("3", work, course)
        assert fresh == work / NAME and source(fresh) == source(course / NAME)
        assert backup.parent == work and backup.name.startswith("03_") and source(backup) == text
    assert len(list(work.glob("03_*backup*"))) == 2
    assert not copy_lessons(work, course).kept
    shutil.rmtree(work)
    assert reset("03", work, course) == (work / NAME, None)


def test_reset_follows_no_link(work, course, tmp_path):
    copy_lessons(work, course)
    elsewhere = tmp_path / "elsewhere.ipynb"
    elsewhere.write_text("not mine to touch")
    (work / NAME).unlink()
    os.symlink(elsewhere, work / NAME)
    copy_lessons(work, course)
    reset("03", work, course)
    assert elsewhere.read_text() == "not mine to touch" and not (work / NAME).is_symlink()


def test_an_interrupted_copy_is_taken_up_again(work, course, monkeypatch):
    def stop(source, own):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(working_copies, "_copy", stop)
        copy_lessons(work, course)
    assert copy_lessons(work, course).new == NAMES


def test_the_command_line(work, monkeypatch, capsys):
    monkeypatch.setenv("PEFT_LESSONS_WORK", str(work))
    assert command_line.main(["copy"]) == 0
    assert f"Your lessons are in {work}" in capsys.readouterr().out
    assert (work / NAME).exists()
    assert command_line.main(["reset", "03"]) == 0
    assert "Yours is now 03_" in capsys.readouterr().out
    assert command_line.main(["reset", "77"]) == 2
    assert "there is no lesson '77'; there is\n  00  Start here" in capsys.readouterr().err
