"""The cell that installs the course on Colab and Kaggle: in every lesson the first code, folded, idle elsewhere."""

import json
import subprocess
import sys

import nbformat
import pytest

from tools.lessons import notebooks

TEXTS = notebooks.sources()


def install_cell(path):
    cells = [cell for cell in nbformat.read(path.with_suffix(".ipynb"), as_version=4).cells if cell.cell_type == "code"]
    (cell,) = [cell for cell in cells if notebooks.INSTALLS in cell.metadata.get("tags", [])]
    assert cell is cells[0]
    return cell


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_it_is_the_first_code_folded_and_the_same_everywhere(path):
    cell = install_cell(path)
    assert cell.source == install_cell(TEXTS[0]).source
    assert cell.metadata["jupyter"] == {"source_hidden": True} and cell.outputs == []
    assert cell.source.startswith("#@title "), "Colab folds a cell with a title"


# IPython runs the cell with lines that begin with % and ! noted instead of run; a stand-in for Colab's module is there.
RUN = """
import json, sys, types
from IPython.core.interactiveshell import InteractiveShell
source, hidden = json.loads(sys.argv[1]), sys.argv[2] == "without"
sys.modules["google.colab"] = types.ModuleType("google.colab")
if hidden:
    import importlib.util as util
    find = util.find_spec
    util.find_spec = lambda name, *rest: None if name == "peft_lessons" else find(name, *rest)
shell, ran = InteractiveShell.instance(), []
shell.run_line_magic = lambda name, line, **_: ran.append(f"%{name} {line}")
shell.system = lambda line: ran.append(f"!{line}")
result = shell.run_cell(source)
result.raise_error()
print(json.dumps(ran))
"""


@pytest.mark.parametrize(
    ("course", "ran"),
    [("with", []), ("without", ["%pip install --quiet peft-lessons", "!python -m peft_lessons weights"])],
)
def test_it_installs_only_where_the_course_is_missing(course, ran):
    source = json.dumps(install_cell(TEXTS[0]).source)
    done = subprocess.run([sys.executable, "-c", RUN, source, course], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ran
