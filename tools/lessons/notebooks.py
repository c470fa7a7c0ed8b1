"""Lessons from their text: `build` executes notebooks/NN_name.md into NN_name.ipynb, `check` proves that the two agree.

The MyST Markdown file is the truth; the notebook beside it is that text, each cell's place on a slide and which code is
folded (`slides`), which outputs wait for a guess (predictions.py), and the outputs of one run in a fresh kernel.
Outputs stay and widget views and state go: a reader without a kernel then sees each widget's static form. What figures
with controls show at every setting goes into docs/site/figures, a file a cell, from which the site moves them.

    python -m tools.lessons.notebooks build          every lesson
    python -m tools.lessons.notebooks build 03 06    two of them
    python -m tools.lessons.notebooks refresh        runs nothing: takes over prose and metadata where code is the same
    python -m tools.lessons.notebooks check          parity of text and notebook, then the guards
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from peft_lessons.files import write_text
from peft_lessons.jupyter import WAITING, slides
from peft_lessons.lessons.parts import calls_any
from tools.lessons import lesson_lint, notebook_lint, predictions

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
FIGURES = NOTEBOOKS.parent / "docs/site/figures"
PAIRING = "ipynb,md:myst"
HEADER = f"""\
---
jupytext:
  formats: {PAIRING}
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3 (ipykernel)
  language: python
  name: python3
---
"""
METADATA = {
    "jupytext": {"formats": PAIRING},
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},  # else jupytext sees two different texts
}
INSTALLS = "install"  # the tag of the cell that installs the course on Colab and Kaggle, and is folded
MEGABYTES = 3
# Not `_` for the last result, a name that a lesson may use.
ASK = "__import__('peft_lessons.classroom.widgets.frames', fromlist=['tell']).tell(_oh[max(_oh)], {path!r})"
COLOURS = re.compile(r"\x1b\[[\d;]*m")


def sources(names: Iterable[str] = (), folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the lessons' text files, all of them or those that `names` picks by number ("03"), name or path."""
    lessons = sorted(folder.glob("[0-9][0-9]_*.md"))
    chosen = []
    for name in names:
        stem = Path(name).stem
        found = [path for path in lessons if path.stem == stem or path.stem.startswith(f"{stem}_")]
        if not found:
            raise ValueError(f"no lesson is called {name!r}; there are {', '.join(p.stem for p in lessons) or 'none'}")
        chosen += found
    return chosen or lessons


def read_text(path: Path) -> NotebookNode:
    """Read the notebook, without outputs, that a lesson's MyST Markdown stands for."""
    text = path.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="md:myst")
    if notebook.metadata.get("jupytext", {}).get("formats") != PAIRING:
        raise ValueError(f"{path.name} does not say that it is paired; let it begin with\n{HEADER}")
    if set(re.findall(r"^`{3,}\{code-cell\}(.*)$", text, re.MULTILINE)) - {" ipython3"}:
        raise ValueError(f"{path.name}: let every code cell begin with ```{{code-cell}} ipython3")
    for cell in notebook.cells:
        if list(cell.metadata) != sorted(cell.metadata):  # the notebook stores them so, and jupytext compares the order
            raise ValueError(f"{path.name}: put a cell's options in alphabetical order, not {', '.join(cell.metadata)}")
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    for cell, slide_type in zip(notebook.cells, slides.slide_types(notebook.cells), strict=True):
        if slide_type:
            cell.metadata["slideshow"] = {"slide_type": slide_type}
    for cell in notebook.cells:
        if slides.folded(cell):
            cell.metadata["jupyter"] = {"source_hidden": True}
    for cell in predictions.answers(notebook.cells):
        cell.metadata.setdefault("jupyter", {})["outputs_hidden"] = True  # until it is run
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def kernel_environment(home: Path, **variables: str) -> dict[str, str]:
    """Variables of a kernel that no user's settings, progress or network can colour."""
    return os.environ | {
        "PEFT_LESSONS_HOME": str(home / "progress"),
        "IPYTHONDIR": str(home / "ipython"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # the order of a sum, hence its last digit, depends on the number of threads
        "OMP_WAIT_POLICY": "passive",
        **variables,
    }


class ThisPython(NotebookClient):
    """Runs cells in a kernel of this Python, whatever kernels are installed, and ends it after the last one.

    `told` gets, by the id of its cell, what each figure with controls can show.
    """

    told: dict[str, Any]

    async def async_execute_cell(self, cell: NotebookNode, cell_index: int, *args: Any, **options: Any) -> NotebookNode:
        done = await super().async_execute_cell(cell, cell_index, *args, **options)
        if cell.cell_type == "code" and calls_any(cell.source, alive=True):
            with tempfile.TemporaryDirectory(prefix="peft-lessons-") as folder:
                path = Path(folder) / "told.json"
                asking = nbformat.v4.new_code_cell(ASK.format(path=str(path)))
                await super().async_execute_cell(asking, cell_index, store_history=False)
                self.told[cell.id] = json.loads(path.read_text(encoding="utf-8"))
            self.nb.cells[cell_index] = done
            self.code_cells_executed -= 1  # it counts for nobody
        return done

    def create_kernel_manager(self) -> AsyncKernelManager:
        return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))


def execute(notebook: NotebookNode, folder: Path = NOTEBOOKS, **variables: str) -> dict[str, Any]:
    """Run every cell, in place, in a fresh kernel of this Python that works in `folder`.

    Returns what each figure with controls can show, by the id of its cell. Raises nbclient's CellExecutionError at the
    first cell that raises and is not tagged `raises-exception`.
    """
    with tempfile.TemporaryDirectory(prefix="peft-lessons-") as home:
        client = ThisPython(
            notebook,
            timeout=None,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # at its default it warns of its own TCP sockets
            record_timing=False,
            coalesce_streams=True,
            store_widget_state=True,  # without it, nbclient fails on Output widgets; `strip` takes the state out again
            resources={"metadata": {"path": str(folder)}},
        )
        client.told = {}
        client.execute(env=kernel_environment(Path(home), **variables))
    return client.told


def strip(notebook: NotebookNode) -> NotebookNode:
    """Take out, in place, what belongs to a run, not to the lesson: widget state and views, the kernel's metadata."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(notebook_lint.WIDGET_VIEW, None)
            output.pop("transient", None)
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    """Write the notebook whole, so that an interrupted run leaves the old one."""
    nbformat.validate(notebook)
    write_text(path, nbformat.writes(notebook) + "\n")


def figure_file(path: Path, cell: str) -> Path:
    """Return where it is stored what the figure of this cell of the lesson at `path` can show."""
    return path.parents[1] / FIGURES.relative_to(NOTEBOOKS.parent) / f"{path.stem[:2]}-{cell}.json"


def write_figures(path: Path, told: dict[str, Any]) -> None:
    """Store what the figures of the lesson at `path` can show, in place of what was stored of them."""
    texts = {figure_file(path, cell): json.dumps(what, ensure_ascii=False) for cell, what in told.items()}
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text + "\n")
    every = figure_file(path, "*")
    for file in set(every.parent.glob(every.name)) - texts.keys():
        file.unlink()


def build(path: Path, **variables: str) -> float:
    """Execute the lesson at `path` (.md) and write its notebook; returns the seconds that running it took."""
    notebook = read_text(path)
    start = time.perf_counter()
    told = execute(notebook, path.parent, **WAITING | variables)
    seconds = time.perf_counter() - start
    write(strip(notebook), path.with_suffix(".ipynb"))
    write_figures(path, told)
    return seconds


def refresh(path: Path) -> None:
    """Write the notebook of the lesson at `path` (.md) anew with the outputs that it has, which fit the same code only.

    Raises ValueError when a code cell is new, gone, moved or changed, FileNotFoundError when there is no notebook yet.
    """
    notebook, stored = read_text(path), nbformat.read(path.with_suffix(".ipynb"), as_version=nbformat.NO_CONVERT)
    new, old = ([cell for cell in each.cells if cell.cell_type == "code"] for each in (notebook, stored))
    if [cell.id for cell in new] != [cell.id for cell in old]:
        fix = f"run `python -m tools.lessons.notebooks build {path.stem[:2]}`"
        raise ValueError(f"{path.name}: its code is not the notebook's: {fix}")
    for cell, run in zip(new, old, strict=True):
        cell.outputs, cell.execution_count = run.outputs, run.execution_count
    write(notebook, path.with_suffix(".ipynb"))


def differences(path: Path) -> list[str]:
    """Why the notebook beside the lesson at `path` (.md) is not the same: the first cell that differs, or nothing."""
    stored_path = path.with_suffix(".ipynb")
    fix = f"run `python -m tools.lessons.notebooks build {path.stem[:2]}`"
    if not stored_path.exists():
        return [f"{path.name} has no notebook: {fix}"]
    text, stored = read_text(path), nbformat.read(stored_path, as_version=nbformat.NO_CONVERT)
    if stored.metadata != text.metadata:
        return [f"{stored_path.name}: the notebook's metadata differs from what a build writes: {fix}"]
    for number, (ours, theirs) in enumerate(zip(text.cells, stored.cells, strict=False)):
        for part in ("cell_type", "source", "metadata", "id"):
            if ours.get(part) != theirs.get(part):
                return [
                    f"{stored_path.name}: {part} of cell {number} differs from {path.name}\n"
                    f"  text:     {_short(ours.get(part))}\n  notebook: {_short(theirs.get(part))}\n"
                    f"  The text is the truth: {fix}. Carry a change made in the notebook into the text first."
                ]
    if len(text.cells) != len(stored.cells):
        return [f"{stored_path.name} has {len(stored.cells)} cells and {path.name} has {len(text.cells)}: {fix}"]
    return []


def faults(path: Path) -> list[str]:
    """All that the guards find in the notebook of the lesson at `path` (.md): outputs, parts, prose, links and size."""
    stored = path.with_suffix(".ipynb")
    notebook = nbformat.read(stored, as_version=nbformat.NO_CONVERT)
    found = notebook_lint.problems(notebook) + lesson_lint.problems(notebook, lesson_lint.facts_of(path.stem))
    found += lesson_lint.broken_links(notebook, path.parent)
    if (size := stored.stat().st_size) > MEGABYTES * 1_000_000:
        found.append(f"the file is {size / 1e6:.1f} MB; at most {MEGABYTES} are allowed")
    return [f"{stored.name}: {fault}" for fault in found]


def orphans(folder: Path = NOTEBOOKS) -> list[str]:
    """Notebooks in `folder` that no text stands for."""
    return [
        f"{notebook.name} has no text: write {notebook.with_suffix('.md').name}, or delete the notebook"
        for notebook in sorted(folder.glob("*.ipynb"))
        if not notebook.with_suffix(".md").exists()
    ]


def _short(value: object, limit: int = 300) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def run_build(paths: list[Path]) -> int:
    failed = 0
    for path in paths:
        try:
            seconds = build(path)
        except (CellExecutionError, ValueError) as error:
            print(f"{path.stem:<40} failed\n{COLOURS.sub('', str(error))}", flush=True)
            failed += 1
        else:
            size = path.with_suffix(".ipynb").stat().st_size
            print(f"{path.stem:<40} {seconds:6.1f} s  {size / 1e6:5.2f} MB", flush=True)
    return failed


def run_refresh(paths: list[Path]) -> int:
    failed = 0
    for path in paths:
        try:
            refresh(path)
        except (FileNotFoundError, ValueError) as error:
            print(error)
            failed += 1
    return failed


def run_check(paths: list[Path], names: list[str]) -> int:
    problems = [] if names else orphans()
    for path in paths:
        try:
            found = differences(path)
            if path.with_suffix(".ipynb").exists():
                found += faults(path)
        except ValueError as error:
            found = [str(error)]
        print(f"{path.stem:<40} {'agrees' if not found else f'{len(found)} problems'}")
        problems += found
    print(*problems, sep="\n")
    return len(problems)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["build", "refresh", "check"])
    parser.add_argument("names", nargs="*", help="numbers or names of lessons; all when none is given")
    arguments = parser.parse_args()
    try:
        paths = sources(arguments.names)
    except ValueError as error:
        parser.error(str(error))
    if arguments.command == "check":
        failed = run_check(paths, arguments.names)
    else:
        failed = {"build": run_build, "refresh": run_refresh}[arguments.command](paths)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
