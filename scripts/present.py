"""A lesson as a talk: `make present LESSON=03`, or `python scripts/present.py 03` with more options for JupyterLab.

JupyterLab opens on a copy of the lessons, starts the slides and runs all cells in a fresh kernel behind the first one.
Settings, progress and the copy itself live in a folder that is deleted at the end, so nothing of yours is touched and
each start is a fresh one. In the copy, code that only draws or asks is folded, and the solution of each exercise waits
on a slide of its own until its cell is run.
"""

import argparse
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import slides
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from peft_lessons.classroom import progress, talks

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SETTINGS = {
    "@jupyterlab/apputils-extension/themes": {
        "overrides": {"content-font-size1": "20px", "code-font-size": "16px", "ui-font-size1": "18px"}
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
    """The notebook, changed in place: unnumbered, with code folded and a cell for each exercise's solution."""
    notebook.metadata.pop("jupytext", None)  # its text stays behind
    cells: list[NotebookNode] = []
    below_solution = False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None  # it has not run yet; its stored outputs stay, in sight, until it does
            cell.metadata.pop("jupyter", None)
        if slides.folded(cell):
            cell.metadata["jupyter"] = {"source_hidden": True}
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


def prepare(home: Path, notebooks: Path = NOTEBOOKS) -> dict[str, str]:
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
    return os.environ | {
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "PEFT_LESSONS_HOME": str(home / "progress"),
    }


def present(lesson: progress.Lesson, options: list[str]) -> int:
    """Present `lesson` until JupyterLab is ended; returns its exit status."""
    token = secrets.token_hex(16)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="peft-lessons-", ignore_cleanup_errors=True) as folder:
        home = Path(folder).resolve()
        environment = prepare(home)
        print(talks.notes(talks.load_talk(lesson.number)))
        print(f"\nThe slides: http://127.0.0.1:{port}/doc/tree/{lesson.notebook}?token={token}")
        print("Load the page again to start afresh. End with Ctrl+C here.", flush=True)
        command = [
            *(sys.executable, "-m", "jupyterlab", f"--config={ROOT / 'jupyter_lab_config.py'}", "--log-level=ERROR"),
            *(f"--ServerApp.root_dir={home / 'notebooks'}", f"--LabApp.default_url=/doc/tree/{lesson.notebook}"),
            *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
            f"--LabApp.extra_labextensions_path={ROOT / 'scripts/labextensions'}",
            *("--ServerApp.answer_yes=True", *options),  # Ctrl+C ends it without a question
        ]
        with subprocess.Popen(command, env=environment) as server:
            try:
                return server.wait()
            except KeyboardInterrupt:
                server.terminate()  # it ends its kernels first
                try:
                    server.wait(30)
                except subprocess.TimeoutExpired:
                    server.kill()  # kernels end by themselves when their server is gone
                return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lesson", nargs="?", default="", help="the lesson's number; all other options are JupyterLab's")
    chosen, options = parser.parse_known_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore Ctrl+C
    lessons = {lesson.number: lesson for lesson in progress.lessons()}
    number = chosen.lesson.zfill(2)
    if not chosen.lesson or number not in lessons:
        wrong = f"there is no lesson {chosen.lesson!r}" if chosen.lesson else "which lesson? Say make present LESSON=03"
        parser.error("\n".join([f"{wrong}; there is", *(f"  {key}  {each.title}" for key, each in lessons.items())]))
    return present(lessons[number], options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
