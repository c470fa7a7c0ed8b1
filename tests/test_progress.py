"""Progress: several processes at once, stores that cannot be used; the map, guesses and the certificate."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from javascript import run_node_tests

from peft_lessons import cli
from peft_lessons.classroom import progress
from peft_lessons.classroom.exercises import exercise_ids
from peft_lessons.classroom.progress import certificate, guesses
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.classroom.widgets.progress_map import ProgressMap
from peft_lessons.lessons.catalogue import find_lesson, lessons
from peft_lessons.lessons.questions import question_ids

WIDGETS = Path(progress.__file__).parents[1] / "widgets"


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(progress, "_warned", False)


def test_events_come_back_in_order_and_by_item():
    assert progress.events() == []
    assert progress.record("03-merge", "exercise", "incorrect", "why; DROP TABLE events --") == ""
    assert progress.record("01-goal", "quiz", "correct") == ""
    first, second = progress.events()
    assert (first.lesson, first.item, first.kind, first.outcome) == ("03", "03-merge", "exercise", "incorrect")
    assert first.detail == "why; DROP TABLE events --"
    assert first.time < second.time and first.time.endswith("+00:00")
    assert progress.events("01-goal") == progress.events(kind="quiz") == [second]
    assert progress.events("01-goal", "exercise") == []


@pytest.mark.slow
def test_four_processes_lose_nothing():
    script = (
        "import sys\nfrom peft_lessons.classroom.progress import record\n"
        "for n in range(100):\n    assert record(f'01-p{sys.argv[1]}', 'quiz', 'correct', str(n)) == ''\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(number)]) for number in range(4)]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0, 0, 0]
    assert len(progress.events()) == 400
    for number in range(4):
        assert [int(event.detail) for event in progress.events(f"01-p{number}")] == list(range(100))
    assert sqlite3.connect(progress.store_path()).execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_home_is_the_variable_else_the_users_data_directory(monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", "~/course")
    assert progress.home() == Path.home() / "course"
    monkeypatch.delenv("PEFT_LESSONS_HOME")
    assert progress.home().name == "peft-lessons" and progress.home().is_absolute()


def a_file_in_the_way(home: Path) -> None:
    home.write_text("")


def a_folder_in_the_way(home: Path) -> None:
    (home / "progress.sqlite3").mkdir(parents=True)


def garbage(home: Path) -> None:
    home.mkdir()
    (home / "progress.sqlite3").write_bytes(b"not a database " * 100)


def a_later_version(home: Path) -> None:
    progress.record("01-goal", "quiz", "correct")
    with sqlite3.connect(progress.store_path()) as connection:
        connection.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize(
    ("harm", "reason", "remedy"),
    [
        (a_file_in_the_way, "exists", "Set PEFT_LESSONS_HOME"),
        (a_folder_in_the_way, "unable to open", "Set PEFT_LESSONS_HOME"),
        (garbage, "not a database", "Move"),
        (a_later_version, "later version", "Update the course"),
    ],
)
def test_an_unusable_store_never_stops_a_lesson(harm, reason, remedy):
    harm(progress.home())
    notice = progress.record("01-goal", "quiz", "correct")
    assert "not being saved" in notice and reason in notice and remedy in notice
    assert progress.record("01-goal", "quiz", "correct") == "", "it is said once"
    assert progress.events() == []
    assert all(row["quiz"]["done"] == 0 for row in progress.lesson_progress())
    status = progress.store_status()
    assert not status.ok and reason in status.message and remedy in status.remedy
    assert status.path == progress.store_path()


def test_status_of_a_good_store_leaves_no_event():
    assert progress.store_status().ok
    progress.record("01-goal", "quiz", "correct")
    assert progress.store_status().message.endswith("(1 events)")
    assert len(progress.events()) == 1


def test_lessons_are_numbered_in_order_and_named_as_their_notebooks():
    numbers = [lesson.number for lesson in lessons()]
    assert numbers == sorted(set(numbers))
    for lesson in lessons():
        assert lesson.notebook.startswith(f"{lesson.number}_") and lesson.notebook.endswith(".ipynb")
        assert lesson.reading_minutes > 0 and lesson.running_minutes > 0


def row(number: str) -> dict:
    return next(row for row in progress.lesson_progress() if row["number"] == number)


def test_counts_are_of_items_that_were_right_at_least_once():
    questions, exercises = question_ids("01"), exercise_ids("03")
    assert row("01")["quiz"] == {"done": 0, "total": len(questions)}
    progress.record(questions[0], "quiz", "incorrect")
    assert row("01")["quiz"]["done"] == 0
    for outcome in ("correct", "correct", "incorrect"):
        progress.record(questions[0], "quiz", outcome)
    progress.record("01-removed-since", "quiz", "correct")
    assert row("01")["quiz"] == {"done": 1, "total": len(questions)}
    progress.record("03-merge", "hint", "shown")
    progress.record("03-merge", "exercise", "correct")
    assert row("03")["exercise"] == {"done": 1, "total": len(exercises)}


def test_the_map_refreshes_when_the_browser_asks():
    widget = ProgressMap()
    progress.record("01-goal", "quiz", "correct")
    assert widget.rows[1]["quiz"]["done"] == 0
    widget._handle_custom_msg("refresh", [])
    assert widget.rows[1]["quiz"]["done"] == 1


def test_the_stored_map_knows_no_learner():
    fresh = ProgressMap()._repr_mimebundle_()[0]
    progress.record("01-goal", "quiz", "correct")
    later = ProgressMap()._repr_mimebundle_()[0]
    for kind in ("text/plain", "text/markdown"):
        assert fresh[kind] == later[kind]
    for lesson in lessons():
        assert f"[{lesson.title}]({lesson.notebook})" in fresh["text/markdown"]
        assert lesson.title in fresh["text/plain"]


def do_all_but(left=()):
    """Answer and solve everything at the first try, but for the items in `left`."""
    for lesson in lessons():
        for kind, ids in (("quiz", question_ids(lesson.number)), ("exercise", exercise_ids(lesson.number))):
            for which in ids:
                if which not in left:
                    progress.record(which, kind, "correct")


def test_the_map_makes_the_certificate_when_all_is_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    widget = ProgressMap()
    widget._handle_custom_msg({"certificate": "Ada"}, [])
    assert widget.certificate["file"] == "" and "not all is done" in widget.certificate["said"]
    do_all_but()
    for file in ("peft-lessons-certificate.html", "peft-lessons-certificate-2.html"):
        widget._handle_custom_msg({"certificate": "Ada"}, [])
        assert widget.certificate["file"] == file and str(tmp_path / file) in widget.certificate["said"]
        assert "Ada" in (tmp_path / file).read_text(encoding="utf-8")


def test_front_end(tmp_path):
    script = source("parts.js", "progress.js")
    states = {"empty": progress.lesson_progress()}
    progress.record("01-goal", "quiz", "correct")
    states["answered"] = progress.lesson_progress()
    do_all_but([question_ids(lessons()[-1].number)[0]])
    states["nearly"] = progress.lesson_progress()
    do_all_but()
    states["done"] = progress.lesson_progress()
    run_node_tests("progress.test.js", {"script": script, **states}, tmp_path)


# Guesses


def compared(item: str, error: float):
    progress.record(item, "guess", "shown", json.dumps({"guess": 1}))
    progress.record(item, "guess", "incorrect", json.dumps({"guess": 1, "measured": 2, "error": error}))


def test_guesses_are_compared_from_six_on():
    for number in range(5):
        compared(f"03-{number}", 9)
    assert guesses.improvement() == {}
    compared("03-0", 0)  # the second guess at an item knows the answer
    assert guesses.improvement() == {}
    compared("04-a", 0.6)
    compared("04-b", 1)  # twice as much, or another choice
    assert guesses.improvement() == {"earlier": {"close": 0, "total": 3}, "later": {"close": 1, "total": 4}}


# The certificate


def test_the_command_writes_it_and_says_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["certificate", "Ada Lovelace"]) == 2
    assert "not all is done yet. What is missing:\n  00 Start here" in capsys.readouterr().err
    do_all_but()
    for words, file in (([], certificate.FILE), (["own.html"], "own.html")):
        assert cli.main(["certificate", "Ada Lovelace", *words]) == 0
        assert str(tmp_path / file) in capsys.readouterr().out
        assert "Ada Lovelace" in (tmp_path / file).read_text(encoding="utf-8")
    assert cli.main(["certificate", "Ada Lovelace"]) == 2 and "is there already" in capsys.readouterr().err


def test_a_certificate_says_what_is_missing_and_writes_nothing(tmp_path):
    path = tmp_path / "mine.html"
    do_all_but([*exercise_ids("03")[:1], *question_ids("05")[:2]])
    with pytest.raises(ValueError, match=r"(?s)missing:\n  03 LoRA.*: 1 exercise\n  05 The knobs.*: 2 questions$"):
        certificate.write(path, "Ada")
    assert list(tmp_path.glob("*.html")) == []


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "Ada\nLovelace", "\x1b[31mAda"])
def test_a_name_that_cannot_stand_there_is_refused(tmp_path, name):
    do_all_but()
    with pytest.raises(ValueError, match="does not fit: 1 to 80 characters"):
        certificate.write(tmp_path / "mine.html", name)


def test_a_certificate_says_what_was_done(tmp_path, monkeypatch):
    first, exercise = question_ids("01")[0], exercise_ids("03")[0]
    progress.record(first, "quiz", "incorrect")
    progress.record(exercise, "solution", "shown")
    do_all_but()
    path = tmp_path / "mine.html"
    certificate.write(path, " Ada <Lovelace> ")
    page = path.read_text(encoding="utf-8")
    questions = sum(len(question_ids(lesson.number)) for lesson in lessons())
    exercises = sum(len(exercise_ids(lesson.number)) for lesson in lessons())
    words = " ".join(page.split())
    assert '<p class="name">Ada &lt;Lovelace&gt;</p>' in words and "<Lovelace>" not in page
    assert f"all {len(lessons())} lessons, with {questions} questions answered, {questions - 1} of them" in words
    assert f"{exercises} exercises solved, 1 of them after the solution was shown" in words
    assert "It is not an examination" in words and "the name is what the student typed" in words
    today = progress.events()[0].time[:10]
    assert f"from {today} to {today}" in words and page.count(today) >= len(lessons()) + 2
    assert "@media print" in page and "http" not in page and "<script" not in page
    with pytest.raises(FileExistsError, match="is there already"):
        certificate.write(path, "Ada")


@pytest.mark.parametrize("chosen", ["~nobody-of-this-name/progress", "a/relative/folder", "no home"])
def test_without_a_home_lessons_go_on(chosen, monkeypatch):
    """A container's user may have no account; a relative folder would be another one for each working directory."""
    monkeypatch.setenv("PEFT_LESSONS_HOME", chosen)
    if chosen == "no home":
        monkeypatch.delenv("PEFT_LESSONS_HOME")
        monkeypatch.setattr(progress.platformdirs, "user_data_dir", lambda *_, **__: "~/.local/share/peft-lessons")
        monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.setattr(progress, "_warned", False)
    said = progress.record("03-merge", "exercise", "correct")
    assert said.startswith("Your progress is not being saved") and "PEFT_LESSONS_HOME" in said
    assert progress.events() == []
    status = progress.store_status()
    assert not status.ok and "PEFT_LESSONS_HOME" in status.remedy
    assert [row["quiz"]["done"] for row in progress.lesson_progress()] == [0] * len(lessons())


def no_home(_path):
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize(
    "name", ["3", "03", "03_lora_from_scratch", "03_lora_from_scratch.ipynb", "x/03_lora_from_scratch.ipynb"]
)
def test_a_lesson_is_found_by_its_number_or_name(name):
    assert find_lesson(name).number == "03"


@pytest.mark.parametrize("name", ["", "77", "-3", "3.5", "lora"])
def test_what_is_no_lesson_is_told_what_there_is(name):
    with pytest.raises(ValueError, match="there is no lesson"):
        find_lesson(name)
