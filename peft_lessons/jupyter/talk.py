"""A lesson as a talk: `peft-lessons present 3`, or `make present LESSON=3`.

JupyterLab opens on a copy of the lessons, starts the slides and runs all cells in a fresh kernel behind the first one.
Settings, progress and the copy itself live in a folder that is deleted at the end, so nothing of yours is touched and
each start is a fresh one. In the copy, code that only draws or asks is folded, and the solution of each exercise waits
on a slide of its own until its cell is run.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from peft_lessons import course
from peft_lessons.jupyter import server
from peft_lessons.lessons import catalogue, notes

SETTINGS = {
    "@jupyterlab/apputils-extension/themes": {
        "overrides": {"content-font-size1": "20px", "code-font-size": "18px", "ui-font-size1": "18px"}
    },
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # as slides want it; a change on the way fails
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},  # a page loaded again is as at the beginning
}
# A kernel that starts, starts with unanswered quizzes.
FORGET = """\
import os, shutil
shutil.rmtree(os.environ["PEFT_LESSONS_HOME"], ignore_errors=True)
"""


def presentable(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook, changed in place: unnumbered, with code folded and a cell for each exercise's solution."""
    notebook.metadata.pop("jupytext", None)  # its text stays behind
    cells: list[NotebookNode] = []
    below_solution = False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None  # it has not run yet; its stored outputs stay, in sight, until it does
            cell.metadata.get("jupyter", {}).pop("outputs_hidden", None)
        slide_type = cell.metadata.get("slideshow", {}).get("slide_type")
        if below_solution and slide_type is None:
            cell.metadata["slideshow"] = {"slide_type": "subslide"}  # the solution stands alone
        below_solution = below_solution and slide_type == "skip"
        cells.append(cell)
        if check := re.search(r"^(\w+)\.check\(", cell.source, re.MULTILINE):
            metadata = {"slideshow": {"slide_type": "subslide"}, "tags": ["solution"]}
            cells.append(new_code_cell(f"{check[1]}.solution()", metadata=metadata))
            below_solution = True
    notebook.cells = cells
    return notebook


def prepare(home: Path, notebooks: Path = course.NOTEBOOKS) -> dict[str, str]:
    """Fill `home`, an empty folder, with lessons and settings; returns the environment in which they are used."""
    (home / "notebooks").mkdir()
    for path in notebooks.glob("*.ipynb"):
        nbformat.write(presentable(nbformat.read(path, as_version=4)), home / "notebooks" / path.name)
    for name, values in SETTINGS.items():
        file = home / f"settings/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    startup = home / "ipython/profile_default/startup/forget.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(FORGET, encoding="utf-8")
    return server.environment(home / "notebooks") | {
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "PEFT_LESSONS_HOME": str(home / "progress"),
        "PEFT_LESSONS_TALK": "1",
    }


def present(lesson: catalogue.Lesson, options: Sequence[str] = ()) -> int:
    """Print the notes of `lesson`, then present it until JupyterLab is ended; returns the exit status.

    `options` are JupyterLab's, such as --no-browser.
    """
    with tempfile.TemporaryDirectory(prefix="peft-lessons-", ignore_cleanup_errors=True) as folder:
        home = Path(folder).resolve()
        environment = prepare(home)
        print(notes.notes(notes.load_talk(lesson.number)))
        page = f"doc/tree/{lesson.notebook}"
        return server.run(home / "notebooks", page, options, environment, _announce)


def _announce(address: str) -> None:
    print("\nLoad the page again to start afresh. End with Ctrl+C here.")
    print(f"Slides: {address}", flush=True)
