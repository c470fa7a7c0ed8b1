"""Text to notebook and back: what a build writes and what parity sees, on a small lesson."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.config import load_jupytext_config

from peft_lessons.classroom.output.figures import number
from tools.lessons import notebook_lint, notebooks

FIXTURE = Path(__file__).with_name("lesson.md")
pytestmark = pytest.mark.notebooks


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The text of the small lesson, in a folder of its own, with its notebook built beside it."""
    path = tmp_path_factory.mktemp("course") / "notebooks" / "03_small.md"
    path.parent.mkdir()
    path.write_text(FIXTURE.read_text(encoding="utf-8"), encoding="utf-8")
    notebooks.build(path)
    return path


@pytest.fixture
def copy(built, tmp_path) -> Path:
    """A copy of the small lesson that a test may change."""
    path = tmp_path / "notebooks" / built.name
    path.parent.mkdir()
    for suffix in (".md", ".ipynb"):
        path.with_suffix(suffix).write_bytes(built.with_suffix(suffix).read_bytes())
    return path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_build_passes_parity_and_guard(built):
    assert notebooks.differences(built) == []
    notebook = nbformat.read(built.with_suffix(".ipynb"), as_version=4)
    assert notebook_lint.problems(notebook) == []


def test_what_is_stored(built):
    stored = json.loads(built.with_suffix(".ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert code[0]["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["4 bits\n"]}]
    assert stored["metadata"] == notebooks.METADATA
    assert stored["cells"][-1]["metadata"] == {"tags": ["end"]}
    kinds = {kind for cell in code for output in cell["outputs"] for kind in output.get("data", {})}
    assert kinds == {"text/plain", "text/html", "text/markdown"}
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])


def test_what_its_figures_show_is_stored(built):
    told = [json.loads(file.read_text(encoding="utf-8")) for file in (built.parents[1] / "docs/site/figures").iterdir()]
    sweep, live = sorted((each["state"] for each in told), key=lambda state: "drawing" not in state)
    assert [frame["readouts"] for frame in sweep["frames"]] == [[["area", number(1 / (n + 1))]] for n in (1, 2, 3, 4)]
    assert [frame["readouts"] for frame in live["frames"]] == [[["height", number(n / 4)]] for n in (1, 2, 3, 4)]
    assert len({frame["url"] for frame in live["frames"]}) == 4


def test_two_builds_are_equal(copy):
    before = copy.with_suffix(".ipynb").read_bytes()
    notebooks.build(copy)
    assert copy.with_suffix(".ipynb").read_bytes() == before


def test_jupytext_sees_one_notebook(built):
    """Were the two to differ for jupytext, JupyterLab with jupytext would refuse to open a lesson after a git clone."""
    stored = jupytext.read(built.with_suffix(".ipynb"))
    config = load_jupytext_config(str(FIXTURE))  # pyproject.toml's, which keeps the slides' metadata out of texts
    as_text = [jupytext.writes(notebook, "md:myst", config=config) for notebook in (stored, jupytext.read(built))]
    assert as_text[0].split("---", 2)[2] == as_text[1].split("---", 2)[2]


def test_an_existing_notebook_survives_a_failing_build(copy):
    before = copy.with_suffix(".ipynb").read_bytes()
    change(copy, 'print(NF4.bits, "bits")', "1 / 0")
    with pytest.raises(notebooks.CellExecutionError, match="ZeroDivisionError"):
        notebooks.build(copy)
    assert copy.with_suffix(".ipynb").read_bytes() == before
    assert sorted(path.name for path in copy.parent.iterdir()) == ["03_small.ipynb", "03_small.md"]


def test_the_kernel_sees_no_progress_of_the_reader(copy, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", "/nowhere/of/the/reader")
    notebook = notebooks.read_text(copy)
    notebook.cells = [nbformat.v4.new_code_cell('import os\nprint(os.environ["PEFT_LESSONS_HOME"], os.getcwd())')]
    notebooks.execute(notebook, copy.parent)
    text = notebook.cells[0].outputs[0].text
    assert "/nowhere" not in text and str(copy.parent) in text


def test_the_kernel_ends_with_the_run(copy):
    notebook = notebooks.read_text(copy)
    notebook.cells = [nbformat.v4.new_code_cell("import os\nprint(os.getpid())")]
    notebooks.execute(notebook, copy.parent)
    kernel = int(notebook.cells[0].outputs[0].text)
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("One of each:", "Two of each:", "source of cell 0 differs"),
        ("quiz(", "quiz( ", "source of cell 5 differs"),
        (":exercise: 03-merge", ":exercise: 03-other", "metadata of cell 6 differs"),
        ("The end.", "The end.\n\n+++\n\nNo.", "has 11 cells and 03_small.md has 12"),
        (
            "```{code-cell} ipython3\nweight",
            "```{code-cell} ipython3\nx\n```\n\n```{code-cell} ipython3\nweight",
            "cell 3",
        ),
        ("from peft_lessons.classroom import", "+++\n\nfrom peft_lessons.classroom import", "source of cell 1 differs"),
        ("```{code-cell} ipython3\nlayer", "Text.\n\n```{code-cell} ipython3\nlayer", "cell_type of cell 4 differs"),
    ],
)
def test_parity_names_what_changed(copy, old, new, message):
    change(copy, old, new)
    (difference,) = notebooks.differences(copy)
    assert message in difference and "tools.lessons.notebooks build 03" in difference


def test_parity_sees_changes_in_the_notebook(copy):
    stored = copy.with_suffix(".ipynb")
    change(stored, "The end.", "The very end.")
    assert "source of cell 10 differs" in notebooks.differences(copy)[0]
    change(stored, '"name": "python3"', '"name": "other"')
    assert "metadata differs" in notebooks.differences(copy)[0]
    stored.unlink()
    assert "has no notebook" in notebooks.differences(copy)[0]


def test_a_notebook_without_text_is_an_orphan(copy):
    assert notebooks.orphans(copy.parent) == []
    copy.unlink()
    assert "03_small.ipynb has no text" in notebooks.orphans(copy.parent)[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("formats: ipynb,md:myst", "formats: md:myst", "does not say that it is paired"),
        ("} ipython3", "}", "ipython3"),
        (":tags: [exercise]\n", ":tags: [exercise]\n:early: yes\n", "alphabetical order, not exercise, tags, early"),
    ],
)
def test_a_text_that_jupytext_would_read_otherwise_is_refused(copy, old, new, message):
    change(copy, old, new)
    with pytest.raises(ValueError, match=message):
        notebooks.read_text(copy)


def test_a_file_that_is_too_large(copy, monkeypatch):
    monkeypatch.setattr(notebooks, "MEGABYTES", 0.001)
    assert any("at most 0.001 are allowed" in fault for fault in notebooks.faults(copy))


def test_lessons_are_chosen_by_number_name_or_path(copy):
    folder = copy.parent
    assert notebooks.sources([], folder) == [copy]
    for name in ("03", "03_small", "notebooks/03_small.ipynb"):
        assert notebooks.sources([name], folder) == [copy]
    with pytest.raises(ValueError, match="no lesson is called '04'; there are 03_small"):
        notebooks.sources(["04"], folder)


def test_the_command_line_says_what_it_does_not_know():
    command = [sys.executable, notebooks.__file__, "check", "99"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "no lesson is called '99'" in done.stderr
