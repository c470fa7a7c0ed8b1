"""Lessons as a student opens them: copies in a folder of their own, which an upgrade of the course never overwrites.

`copy_lessons` brings what is new. A copy counts as changed when the text of its cells is not what was handed out; to
run a lesson changes outputs alone. `HANDED_OUT`, a file beside the copies, remembers what was handed out.
"""

import hashlib
import json
import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat.sign import NotebookNotary

from peft_lessons.classroom import progress
from peft_lessons.course import CHECKOUT, NOTEBOOKS, program
from peft_lessons.files import user_path, write_text
from peft_lessons.lessons.catalogue import find_lesson

HANDED_OUT = ".handed-out.json"
MANY = 3  # notebooks; more are counted, not named


def folder() -> Path:
    """Where the copies are: PEFT_LESSONS_WORK, else my_lessons in a checkout of the course, else ~/peft-lessons.

    Raises OSError where there is no home.
    """
    chosen = os.environ.get("PEFT_LESSONS_WORK")
    if chosen:
        return user_path(chosen).absolute()
    return CHECKOUT / "my_lessons" if CHECKOUT else user_path("~/peft-lessons")


@dataclass(frozen=True)
class Copied:
    """What `copy_lessons` did: the notebooks that are new, replaced by a newer version, or kept since they differ."""

    folder: Path
    new: tuple[str, ...]
    replaced: tuple[str, ...]
    kept: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"Your lessons are in {self.folder}."]
        if self.new:
            many = len(self.new) > MANY
            lines.append(f"New: {f'{len(self.new)} lessons' if many else ', '.join(self.new)}.")
        if self.replaced:
            lines.append(f"Newer versions, since you had not changed yours: {', '.join(self.replaced)}.")
        for name in self.kept:
            lines.append(f"{name} stays as you changed it, and the course has a newer one.")
            lines.append(f"  To get that, with yours kept beside it: {program(f'reset {name[:2]}')}")
        return "\n".join(lines)


def copy_lessons(work: Path | None = None, course: Path = NOTEBOOKS) -> Copied:
    """Copy the lessons into `work` (default: `folder()`) wherever that overwrites nothing that a student wrote.

    Raises OSError when `work` cannot be written though something is new, and says how to choose another folder.
    """
    work = folder() if work is None else work
    try:
        return _copy_lessons(work, course)
    except PermissionError as error:
        words = f"you may not write in {work}; set PEFT_LESSONS_WORK to a folder of yours, such as ~/peft-lessons"
        raise PermissionError(words) from error


def _copy_lessons(work: Path, course: Path) -> Copied:
    work.mkdir(parents=True, exist_ok=True)
    known = _handed_out(work)
    handed_out = dict(known)
    new, replaced, kept = [], [], []
    for lesson in progress.lessons():
        source, own = course / lesson.notebook, work / lesson.notebook
        current = _text(source)
        if not own.exists() and not own.is_symlink():
            new.append(lesson.notebook)
        else:
            theirs = _text(own)
            if theirs == current:
                handed_out[lesson.notebook] = current
                continue
            if theirs is None or theirs != handed_out.get(lesson.notebook):
                if handed_out.get(lesson.notebook) != current:
                    kept.append(lesson.notebook)
                continue
            replaced.append(lesson.notebook)
        _copy(source, own)
        handed_out[lesson.notebook] = current
    if handed_out != known:  # a student whose disk is full must be able to come in
        write_text(work / HANDED_OUT, json.dumps(handed_out, indent=1) + "\n")
    return Copied(work, tuple(new), tuple(replaced), tuple(kept))


def reset(number: str, work: Path | None = None, course: Path = NOTEBOOKS) -> tuple[Path, Path | None]:
    """Put a fresh copy of the lesson with this number in place; an old one stays beside it under another name.

    Returns the fresh copy and the backup, None where there was nothing. Raises ValueError that lists the lessons when
    there is none with this number (or notebook's name), OSError when `work` cannot be written; the old one then stays
    where it is.
    """
    work = folder() if work is None else work
    name = find_lesson(number).notebook
    work.mkdir(parents=True, exist_ok=True)
    own, backup = work / name, None
    fresh = _unused(work / f".{own.stem}.fresh.ipynb")
    _copy(course / name, fresh)  # first, since it may find no room
    if own.exists() or own.is_symlink():
        backup = _unused(own.with_name(f"{own.stem}.backup-{datetime.now():%Y-%m-%d-%H%M%S}.ipynb"))
        os.replace(own, backup)
    os.replace(fresh, own)
    write_text(work / HANDED_OUT, json.dumps(_handed_out(work) | {name: _text(own)}, indent=1) + "\n")
    return own, backup


def _copy(source: Path, own: Path) -> None:
    """Copy the notebook without its pairing with a text, which stays in the course."""
    notebook = json.loads(source.read_text(encoding="utf-8"))
    notebook["metadata"].pop("jupytext", None)
    write_text(own, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    _trust(own)


def _trust(own: Path) -> None:
    """Sign the copy, so that JupyterLab shows all that it holds, also after only a part of it was run and saved.

    Where signatures cannot be written, the copy is as good; only what was not run is shown in its plain form.
    """
    with suppress(OSError, sqlite3.Error):
        notary = NotebookNotary()
        with closing(notary.store):
            notary.sign(nbformat.read(own, as_version=4))


def _text(notebook: Path) -> str | None:
    """Return a digest of the kinds and texts of all cells that are not empty; None when the file is no notebook.

    To run the last cell with Shift+Enter adds an empty one, which is nothing that a student wrote.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        texts = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
        texts = [text for text in texts if text[1].strip()]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return hashlib.sha256(json.dumps(texts).encode("utf-8")).hexdigest()


def _handed_out(work: Path) -> dict[str, Any]:
    """{notebook: digest of its text when it was handed out}; empty when that is not known, which keeps everything."""
    try:
        known = json.loads((work / HANDED_OUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _unused(path: Path) -> Path:
    number, free = 2, path
    while free.exists():
        free, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return free
