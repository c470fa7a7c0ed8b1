"""Facts about other libraries hold in the pinned versions and stand where they say; `make drift` sees what changes."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.proof import drift
from tools.proof.drift import Row
from tools.proof.facts import FACTS, READ_IN

ROOT = Path(__file__).resolve().parents[1]

FACT = next(fact for fact in FACTS if fact.id == "four-bit-type")
each = pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.id)


def plain(text: str) -> str:
    return re.sub(r"[\s#]+", " ", text)


@each
@pytest.mark.slow
def test_it_holds_in_the_pinned_version(fact):
    row = drift.ask(fact)
    assert row.outcome == "held", str(row)


@each
def test_it_stands_where_it_says(fact):
    assert plain(fact.says) in plain((ROOT / fact.where).read_text(encoding="utf-8")), f"{fact.where} has changed"
    assert fact.statement.endswith(".") and fact.statement.count(". ") == 0, "one sentence"


def test_facts_are_told_apart_and_each_library_has_some():
    assert len({fact.id for fact in FACTS}) == len({fact.statement for fact in FACTS}) == len(FACTS)
    assert {fact.library for fact in FACTS} == READ_IN.keys()
    assert set(drift.LIBRARIES) <= READ_IN.keys()


def test_they_were_read_in_the_pinned_versions():
    """After `make pins`: once all facts hold, write the new versions into tools/proof/facts/fact.py."""
    pins = drift.pinned()
    assert {library: pins[library] for library in READ_IN} == READ_IN


def test_a_wrong_expectation_is_news():
    row = drift.ask(replace(FACT, expected="nf4"))
    assert row.outcome == "changed"
    assert row.detail == f"'nf4' → 'fp4' ({FACT.where})"


def test_another_version_shows(monkeypatch):
    monkeypatch.setattr(drift, "version", lambda library: "99.1")
    assert drift.ask(FACT).versions == f"transformers {READ_IN['transformers']} → 99.1"
    assert drift.ask(replace(FACT, expected="nf4")).outcome == "changed"


def test_what_cannot_be_measured_says_why():
    def gone(_):
        raise AttributeError("no BitsAndBytesConfig\nand more")

    row = drift.ask(replace(FACT, measure=gone))
    assert row.outcome == "failed"
    assert row.detail == f"AttributeError: no BitsAndBytesConfig ({FACT.where})"


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setattr(drift, "version", lambda library: None)
    row = drift.ask(FACT)
    assert row.outcome == "not installable" and row.versions.endswith("→ none")


def test_of_two_dictionaries_only_the_difference_shows():
    assert drift.difference({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b: 2 → 3"
    assert drift.difference({"a": 1}, {"b": 1}) == "{'a': 1} → {'b': 1}"


ROWS = [
    Row(outcome="held", what="Water is wet.", versions="water 1.0"),
    Row(outcome="not installable", what="installs", versions="fire 1.0 → none", detail="ERROR: no wheel"),
    Row(outcome="changed", what="Ice is cold | hard.", versions="ice 1.0 → 2.0", detail="'cold' → 'warm' (ice.md)"),
    Row(outcome="failed", what="parity (tests: 1 of 3)", detail="test_one: assert 1 == 2"),
]


def test_the_table_begins_with_the_news():
    assert [row.outcome for row in drift.news_first(ROWS)] == ["changed", "failed", "not installable", "held"]
    assert drift.summary(ROWS) == "1 held, 1 not installable, 1 failed, 1 changed"
    first, second = str(ROWS[2]).splitlines()
    assert first.split(maxsplit=1)[0] == "changed" and "ice 1.0 → 2.0" in first
    assert second.strip() == "'cold' → 'warm' (ice.md)"


def test_the_table_as_markdown():
    lines = drift.as_markdown(ROWS).splitlines()
    assert lines[0] == "1 held, 1 not installable, 1 failed, 1 changed."
    assert lines[4] == r"| changed | ice 1.0 → 2.0 | Ice is cold \| hard. | 'cold' → 'warm' (ice.md) |"
    assert lines[6] == "| not installable | fire 1.0 → none | installs | ERROR: no wheel |"
    assert lines[7] == "| held | water 1.0 | Water is wet. |  |"
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:]} == {5}


def test_the_command_asks_and_reports(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(drift, "ask_all", lambda: [drift.ask(FACT)])
    assert drift.main(["facts", "--json", str(tmp_path / "facts.json")]) == 0
    assert "1 held" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "facts.json").read_text(encoding="utf-8"))
    assert Row(**row).outcome == "held"
    monkeypatch.setattr(drift, "ask_all", lambda: [drift.ask(replace(FACT, expected="nf4"))])
    assert drift.main(["facts"]) == 1


@pytest.mark.parametrize(
    ("inside", "outcome", "what", "detail"),
    [
        ('<testcase name="a"/><testcase name="b"/>', "held", "some tests (tests: 2)", ""),
        (
            '<testcase name="a"/><testcase name="b"><failure message="assert 0"/></testcase>',
            "failed",
            "some tests (tests: 1 of 2)",
            "b: assert 0",
        ),
        ('<testcase name="a"><skipped/></testcase>', "failed", "some tests (tests: 0 of 0)", "1 skipped"),
    ],
)
def test_a_selection_of_tests_becomes_a_row(inside, outcome, what, detail, monkeypatch, tmp_path):
    def run(*arguments, log):
        (report,) = [argument.partition("=")[2] for argument in arguments if argument.startswith("--junitxml=")]
        Path(report).write_text(f"<testsuites><testsuite>{inside}</testsuite></testsuites>", encoding="utf-8")
        (tmp_path / log).write_text("1 skipped\n", encoding="utf-8")

    monkeypatch.setattr(drift, "BUILD", tmp_path)
    monkeypatch.setattr(drift, "run", run)
    assert drift.check("some tests", ["tests/test_x.py"]) == Row(outcome=outcome, what=what, detail=detail)


def test_tests_that_do_not_start_say_why(monkeypatch, tmp_path):
    monkeypatch.setattr(drift, "BUILD", tmp_path)
    monkeypatch.setattr(drift, "run", lambda *_, log: (tmp_path / log).write_text("no module named pytest\n\n"))
    assert drift.check("some tests", []).detail == "no module named pytest"


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_hands_on_where_torch_comes_from():
    def command(**variables):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        given = {"PYTHON": "python", "TORCH_INDEX": "", "DRIFT_TORCH": ""} | variables
        make = ["make", "--dry-run", "drift", *(f"{name}={value}" for name, value in given.items())]
        return subprocess.run(
            make, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()

    plain = ["python", "-m", "tools.proof.drift"]
    assert command() == plain
    assert command(TORCH_INDEX="https://index.example") == [*plain, "--torch-index", "https://index.example"]
    assert command(DRIFT_TORCH="torch==2.13.0") == [*plain, "--torch", "torch==2.13.0"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "assert 1 == 2"), ("....\nFAILED 12_ship_it.ipynb::Cell 7\n", "FAILED 12_ship_it.ipynb::Cell 7")],
)
def test_a_failing_test_says_its_first_line(text, said):
    case = ElementTree.fromstring(f'<testcase name="one"><failure message="assert 1 == 2">{text}</failure></testcase>')
    assert drift.complaint(case) == f"one: {said}"


def test_every_library_is_installed_apart(monkeypatch, tmp_path):
    commands = []

    def pip_install(*arguments):
        commands.append(arguments)
        return "ERROR: no wheel" if arguments[-1] == "peft" else ""

    monkeypatch.setattr(drift, "BUILD", tmp_path)
    monkeypatch.setattr(drift.venv, "create", lambda *_, **__: None)
    monkeypatch.setattr(drift, "pip_install", pip_install)
    monkeypatch.setattr(drift, "installed", lambda: {"torch": "9.9+cpu"})
    assert drift.install("torch", "https://index.example") == {"peft": "ERROR: no wheel"}
    assert commands[:2] == [("--no-deps", "--index-url", "https://index.example", "torch"), ("torch",)]
    assert [arguments[-1] for arguments in commands[2:8]] == list(drift.LIBRARIES[1:])
    assert (tmp_path / "torch.txt").read_text() == "torch==9.9+cpu\n"
    (others,) = [set(arguments[2:]) for arguments in commands if "pytest" in arguments]
    assert "numpy" in others and not others & {"torch", "peft", "mypy"}
    peft = drift.installed_rows({"peft": "ERROR: no wheel"})[drift.LIBRARIES.index("peft")]
    assert (peft.outcome, peft.detail) == ("not installable", "ERROR: no wheel")


def test_what_it_runs_exists():
    for name, arguments in drift.CHECKS.items():
        paths = [argument.partition("::")[0] for argument in arguments if argument.startswith("tests/")]
        assert paths and all((ROOT / path).is_file() for path in paths), name
    for check in ("lesson 00", "lesson 12"):
        (test,) = drift.CHECKS[f"stored outputs of {check}"]
        assert (ROOT / "notebooks" / f"{test.partition('[')[2].rstrip(']')}.ipynb").is_file()
