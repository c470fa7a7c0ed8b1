"""The planted faults: each fits the course as it is, every step of the proof has some, and each is taken out again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.proof import plant_faults, prove
from tools.proof.faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fits_the_course(fault):
    path = ROOT / fault.file
    assert fault.planted(path.read_text(encoding="utf-8"))
    assert fault.file.startswith(tuple(plant_faults.AREAS)) or not any("unit" in look for look in fault.look)


def test_every_area_has_its_tests():
    """Where a file of tests was renamed, all unit tests would run for a fault, or none that looks."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    for area, words in plant_faults.AREAS.items():
        for word in words.replace("{stem}", "").split():
            assert any(name.startswith(f"test_{word}") for name in names), f"{area}: there is no test_{word}"
    for fault in FAULTS:
        if any(look.startswith("unit") for look in fault.look):
            words = next(words for start, words in plant_faults.AREAS.items() if fault.file.startswith(start))
            tests = tuple(f"test_{word}" for word in words.format(stem=Path(fault.file).stem).split())
            assert any(name.startswith(tests) for name in names), f"{fault.name}: no test is named as {fault.file}"


def test_they_are_many_and_reach_every_step():
    assert len(FAULTS) >= 40 and len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {look.partition(": ")[0] for fault in FAULTS for look in fault.look} == set(plant_faults.STEPS)
    assert set(plant_faults.STEPS) == set(prove.FULL)


def test_one_that_does_not_fit_is_named():
    text = "a = 1\nb = 1\n"
    for fault in (Fault("none", "a.py", "c", "d"), Fault("two", "a.py", "1", "2"), Fault("same", "a.py", "a", "a")):
        with pytest.raises(ValueError, match=f"^{fault.name}: .*a.py"):
            fault.planted(text)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of a small course under git, with one file and one test, which needs no torch."""
    quick = plant_faults.NURSERY.replace('"torch", "transformers", "peft", ', "")
    monkeypatch.setattr(plant_faults, "NURSERY", quick)
    course = tmp_path / "course"
    (course / "tests").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", course)
    (course / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    test = "import sums\n\n\ndef test_add():\n    assert sums.add(1, 2) == 3\n"
    (course / "tests" / "test_sums.py").write_text(test)
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=course, check=True)
    (tmp_path / "copy").mkdir()
    with plant_faults.Copy(course, tmp_path / "copy", sys.executable, course) as copy:
        yield copy


@pytest.mark.slow
def test_a_fault_is_caught_or_survives_and_is_taken_out_again(copy):
    before = (copy.folder / "sums.py").read_bytes()
    caught = copy.caught(Fault("minus", "sums.py", "a + b", "a - b"))
    assert caught == ("unit", "tests/test_sums.py::test_add")
    assert copy.caught(Fault("an unused name", "sums.py", "def", "import math\n\n\ndef")) == ("lint", "lint")
    assert copy.caught(Fault("the other order", "sums.py", "a + b", "b + a")) == ("", "")
    assert copy.caught(Fault("nobody looks", "sums.py", "a + b", "a - b", ("unit: products",))) == ("", "")
    assert (copy.folder / "sums.py").read_bytes() == before
    assert copy.fails_anyway([caught]) == []


def test_a_file_that_moved_is_found(copy):
    assert copy.place(Fault("minus", "arithmetic/sums.py", "a + b", "a - b")) == "sums.py"
    with pytest.raises(ValueError, match="there is no arithmetic"):
        copy.place(Fault("minus", "arithmetic/sums.py", "a * b", "a - b"))


def test_failed_tests_are_read_from_the_summary():
    output = """\
ERROR    root:log.py:3 tests/are not named here
FAILED tests/test_a.py::test_one[x - y] - assert 1 == 2
ERROR tests/test_b.py - ImportError
"""
    assert plant_faults.failed(output)[1:] == ["tests/test_b.py"]
