"""The command `peft-lessons`: its help, its exit status, and texts that reach whatever reads them."""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from peft_lessons import __version__, cli, course
from peft_lessons.lessons.catalogue import lessons

ROOT = Path(__file__).resolve().parents[1]


def run(*words, **variables):
    command = [sys.executable, "-m", "peft_lessons", *words]
    return subprocess.run(command, env=os.environ | variables, capture_output=True)


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("words", [[], *(command.words.split() for command in cli.COMMANDS)], ids=" ".join)
def test_help_has_an_example_that_is_understood(words, flag, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, flag])
    said = capsys.readouterr().out
    example = re.search(r"example:\n  peft-lessons (.*)", said)[1]
    arguments, _ = cli.parser().parse_known_args(shlex.split(example))
    assert ended.value.code == 0 and (not words or arguments.command.words == " ".join(words))


def test_no_word_opens_the_course():
    arguments, options = cli.parser().parse_known_args(["--no-browser"])
    assert arguments.command.run is cli.lab and options == ["--no-browser"]


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"peft-lessons {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [["docter"], ["talk"], ["talk", "3", "4"], ["doctor", "--fast"], ["progress", "import"], ["progress", "report"]],
)
def test_what_is_not_understood_is_refused_with_what_there_is(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    said = capsys.readouterr()
    assert ended.value.code == 2 and "usage: peft-lessons" in said.err and not said.out


@pytest.mark.parametrize("typed", ["3", "03", "03_lora_from_scratch", "my_lessons/03_lora_from_scratch.ipynb"])
def test_a_lesson_is_found_by_what_people_type(typed, capsys):
    assert cli.main(["talk", typed]) == 0
    by_number = capsys.readouterr().out
    assert cli.main(["talk", "03"]) == 0
    assert capsys.readouterr().out == by_number


def test_any_encoding_of_the_output(monkeypatch):
    """Notes hold arrows, Greek letters and minus signs, which few old encodings know."""
    for encoding in ("cp1252", "ascii", "utf-8"):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        assert cli.main(["talk", "3"]) == 0
        assert lessons()[3].title.split()[0] in written.getvalue().decode(encoding)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the pipe is broken by a shell")
@pytest.mark.parametrize("words", ["--help", "lessons"])
def test_a_reader_that_has_seen_enough(words):
    line = f"{shlex.quote(sys.executable)} -u -m peft_lessons {words} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr, done.stderr


@pytest.mark.slow
def test_no_colours_are_printed():
    """Python 3.14 colours its help on a terminal, and wherever FORCE_COLOR asks for it; NO_COLOR is stronger."""
    assert b"\x1b" not in run("--help", NO_COLOR="1", FORCE_COLOR="1").stdout


def test_interrupted(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "COMMANDS", (cli.COMMANDS[0], cli.Command("wait", interrupted, "wait", "wait")))
    assert cli.main(["wait"]) == 130


@pytest.mark.slow
def test_help_needs_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('torch is broken here')")
    assert run("--help", PYTHONPATH=str(tmp_path)).returncode == 0


# A command that a text names runs where its reader stands.


def test_a_command_is_named_as_it_can_be_typed(monkeypatch, tmp_path):
    own = course.scripts()
    monkeypatch.setenv("PATH", os.pathsep.join([str(own), "/usr/bin"]))
    assert course.program("reset 3") == "peft-lessons reset 3"
    for path in ("/usr/bin", ""):
        monkeypatch.setenv("PATH", path)
        assert course.program("reset 3") == f"{shlex.quote(sys.executable)} -m peft_lessons reset 3"
    other = tmp_path / "peft-lessons"  # of another environment
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert course.program("reset 3").startswith(shlex.quote(sys.executable))


# In a text in backticks or at the start of a line, in code as what `program` is asked for.
NAMED = re.compile(r"""(?:(?:`|^|again: )peft-lessons |program\(f?["'])([a-z][a-z-]+)""", re.MULTILINE)


def test_texts_name_commands_that_exist():
    known = {command.words.split()[0] for command in cli.COMMANDS}
    places = [ROOT / name for name in ("notebooks", "docs", "peft_lessons", "README.md", "CONTRIBUTING.md")]
    files = [path for place in places for path in ([place] if place.is_file() else place.rglob("*.*"))]
    found = [
        (path.name, word)
        for path in files
        if path.suffix in (".md", ".py", ".toml")
        for word in NAMED.findall(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 20 and [each for each in found if each[1] not in known] == []


def test_every_command_named_with_python_is_gone():
    """`python -m peft_lessons …` is another Python in a terminal; texts say `peft-lessons …`."""
    texts = [
        *ROOT.glob("notebooks/*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("*.md"),
        *ROOT.rglob("peft_lessons/**/*.toml"),
    ]
    wrong = [
        f"{path.name}: {line}"
        for path in texts
        for line in path.read_text(encoding="utf-8").splitlines()
        if "python -m peft_lessons " in line and not line.lstrip().startswith("!python")
    ]
    assert wrong == []
