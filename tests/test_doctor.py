"""The doctor on healthy and on broken set-ups: real breakages where a test can make them, else one faked fact."""

import gzip
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from peft_lessons import cli as command_line
from peft_lessons import course, data, doctor
from peft_lessons.classroom.progress import working_copies
from peft_lessons.doctor import Finding
from peft_lessons.jupyter import server
from peft_lessons.lessons.catalogue import lessons
from peft_lessons.models import smollm2, tiny_gpt


@pytest.fixture(autouse=True)
def healthy(tmp_path, monkeypatch):
    """A course's folder with its notebooks, a home for the progress, and a computer with memory and disk to spare."""
    (tmp_path / "notebooks").mkdir()
    for lesson in lessons():
        (tmp_path / "notebooks" / lesson.notebook).touch()
    monkeypatch.setattr(course, "FILES", tmp_path)
    monkeypatch.setattr(course, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9 * 2**30))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=9 * 2**30))
    return tmp_path


def run_doctor(*, cwd: Path = course.FILES, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "peft_lessons", "doctor"],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_all_is_well(capsys):
    assert doctor.doctor() == 0
    *lines, empty, summary = capsys.readouterr().out.splitlines()
    assert len(lines) == len(doctor.CHECKS)
    assert all(line.startswith("ok       ") for line in lines)
    assert (empty, summary) == ("", "Everything that the lessons need is here.")


@pytest.mark.slow
def test_as_a_command():
    ran = run_doctor()
    assert ran.returncode == ("\nproblem  " in ran.stdout), ran.stdout + ran.stderr
    assert "Python 3." in ran.stdout and "Traceback" not in ran.stderr


def test_unknown_command(capsys):
    with pytest.raises(SystemExit, match="2"):
        command_line.main(["docter"])
    said = capsys.readouterr().err
    assert "'docter'" in said and "doctor" in said.replace("docter", "")


def problem(finding: Finding) -> Finding:
    """Checks that the finding is a problem that says what mends it, and that the exit status tells."""
    assert finding.verdict == "problem"
    assert finding.fix
    assert f"problem  {finding.says}\n         fix it: {finding.fix}\n" in doctor.report([finding])
    return finding


def test_a_copied_folder_imports_the_original(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "PACKAGE", tmp_path / "copy" / "peft_lessons")
    found = problem(doctor.place())
    assert "a folder was copied" in found.says and str(tmp_path / "copy") in found.says
    assert found.fix == course.point_here()


@pytest.mark.parametrize("broken", ["place", "packages"])
def test_the_course_says_at_its_start_what_an_upgrade_or_a_move_has_broken(broken, monkeypatch, tmp_path, capsys):
    for check in ("place", "packages"):
        monkeypatch.setattr(
            doctor, check, lambda check=check: Finding("note" if check == broken else "ok", check, "do this")
        )
    monkeypatch.setattr(working_copies, "copy_lessons", lambda: working_copies.Copied(tmp_path, (), (), ()))
    monkeypatch.setattr(server, "run", lambda *_: 0)
    assert command_line.main(["lab"]) == 0
    said = capsys.readouterr().out
    assert f"note     {broken}\n         fix it: do this" in said and said.count("fix it") == 1


def test_what_mends_works_in_any_folder(monkeypatch, tmp_path):
    """In .venv of a checkout make mends a moved folder without a network; it does not look for a missing package."""
    monkeypatch.setattr(course, "CHECKOUT", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert course.point_here() == f"make -C {tmp_path} setup"
    assert course.reinstall().startswith(sys.executable) and course.reinstall().endswith(f"--editable {tmp_path}")
    monkeypatch.setattr(course, "CHECKOUT", None)
    assert course.point_here() == course.reinstall() and course.reinstall().endswith(" peft-lessons")


def test_a_moved_folder_is_not_found(tmp_path):
    """Another Python without the course, asked to look at it from its folder, as `make doctor` does."""
    bare = [sys.executable, "-I", "-S", "-c"]  # -S: no site-packages, hence no course
    code = f"import sys; sys.path.insert(0, {str(course.PACKAGE.parent)!r}); from peft_lessons import doctor; "
    code += f"sys.executable = {str(tmp_path / 'python')!r}; print(doctor.place())"
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    said = subprocess.run([*bare, code], capture_output=True, text=True)
    assert "notebooks do not find the course" in said.stdout, said.stderr


def test_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    assert "Python 3.10.4 is too old: 3.11 or newer" in problem(doctor.python()).says


def test_broken_home(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "file" / "below"))
    found = problem(doctor.progress())
    assert "progress cannot be saved" in found.says and "PEFT_LESSONS_HOME" in found.fix
    assert doctor.doctor() == 1
    assert "\n1 problem." in capsys.readouterr().out


def test_missing_weights(monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "weights_that_nobody_installed")
    found = problem(doctor.weights())
    assert "missing" in found.says
    assert found.fix == course.program("weights")


def test_damaged_weights(tmp_path, monkeypatch):
    package = tmp_path / "cut_short_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / smollm2.FILE).write_bytes(smollm2.weights_status().path.read_bytes()[:-1])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(smollm2, "PACKAGE", package.name)
    found = problem(doctor.weights())
    assert "damaged" in found.says and str(package / smollm2.FILE) in found.says
    assert found.fix == course.program("weights")


def test_missing_package(monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(
        metadata,
        "version",
        lambda name: installed(name if name != "anywidget" else "a-package-that-nobody-installed"),
    )
    found = problem(doctor.packages())
    assert found.says == "packages are missing: anywidget"
    assert found.fix == course.reinstall()


def test_another_version_is_a_note(monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name == "anywidget" else installed(name))
    found = doctor.packages()
    assert found.verdict == "note" and found.fix
    assert "anywidget 1.0 (==" in found.says


def test_course_that_is_not_installed(monkeypatch):
    def not_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", not_installed)
    assert "peft-lessons is not installed" in problem(doctor.packages()).says


def test_damaged_tiny_gpt(tmp_path, monkeypatch):
    shutil.copytree(tiny_gpt.FOLDER, tmp_path / "tiny_gpt")
    monkeypatch.setattr(tiny_gpt, "FOLDER", tmp_path / "tiny_gpt")
    weights = tmp_path / "tiny_gpt" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    found = problem(doctor.tiny_gpt())
    assert found.says == f"the tiny GPT: {weights} is damaged"
    assert "checkout -- peft_lessons/models/tiny_gpt" in found.fix
    weights.unlink()
    assert "lacks model.safetensors" in problem(doctor.tiny_gpt()).says


def test_damaged_text(tmp_path, monkeypatch):
    shutil.copytree(Path(data.__file__).parent, tmp_path / "data")
    (tmp_path / "data" / "countries.jsonl.gz").write_bytes(gzip.compress(b'{"country": "Nowhere"}\n'))
    monkeypatch.setattr(data, "files", lambda _: tmp_path / "data")
    data._text.cache_clear()
    found = problem(doctor.texts())
    data._text.cache_clear()
    assert "countries.jsonl.gz is damaged" in found.says and "checkout -- peft_lessons/data" in found.fix


def test_missing_notebook(healthy):
    (healthy / "notebooks" / "00_start_here.ipynb").unlink()
    assert problem(doctor.notebooks()).says.endswith("notebooks: 00_start_here.ipynb")


def test_little_memory(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    assert problem(doctor.memory()).says == "1.0 GiB of memory are available, and some lessons need 4"


def test_full_disk(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    assert "0.0 GiB of disk are free" in problem(doctor.disk()).says


def test_busy_threads_are_a_note(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY")
    found = doctor.waiting()
    assert found.verdict == "note" and "OMP_WAIT_POLICY=passive" in found.fix


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch", "packaging", "psutil", "anywidget"])
def test_the_doctor_speaks_where_a_package_does_not_load(module, tmp_path):
    (tmp_path / f"{module}.py").write_text(f"raise ImportError('{module} is broken here')")
    ran = run_doctor(PYTHONPATH=str(tmp_path))
    assert ran.returncode == 1, ran.stderr
    assert f"{module} is broken here" in ran.stdout and "Traceback" not in ran.stderr
    assert f"ok       Python {sys.version_info.major}." in ran.stdout
    if module == "torch":
        assert "pip install --force-reinstall" in ran.stdout, "pip takes a broken torch for an installed one"
        assert "fix it: what is named above, first" in ran.stdout
