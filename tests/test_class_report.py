"""From a student's events to the file handed in, and from a folder of such files to the class's report."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from peft_lessons import cli as command_line
from peft_lessons.classroom import progress
from peft_lessons.classroom.progress import class_report, submission, taking_up
from peft_lessons.classroom.progress.submission import seal
from peft_lessons.classroom.widgets import quiz
from peft_lessons.lessons.questions import load_question


@pytest.fixture
def student(tmp_path, monkeypatch):
    """A function that does what a student does, (item, kind, outcome) each, and hands in; returns the file."""

    def acts(file, *events, name="", home=None):
        monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "homes" / (home or file)))
        for item, kind, outcome in events:
            assert progress.record(item, kind, outcome, f"a secret of {file}") == ""
        path = tmp_path / "class" / file
        path.parent.mkdir(exist_ok=True)
        submission.export(path, name)
        return path

    return acts


WRONG, RIGHT = ("01-goal", "quiz", "incorrect"), ("01-goal", "quiz", "correct")
MERGE_WRONG, MERGE_RIGHT = ("03-merge", "exercise", "incorrect"), ("03-merge", "exercise", "correct")
HINT, SOLUTION = ("03-merge", "hint", "shown"), ("03-merge", "solution", "shown")
NOT_TRIED = ("03-merge", "exercise", "not attempted")


def test_what_is_handed_in(student):
    path = student("ada.json", WRONG, RIGHT, WRONG, NOT_TRIED, MERGE_WRONG, HINT, SOLUTION, name="Ada")
    told = json.loads(path.read_text(encoding="utf-8"))
    assert list(told) == ["format", "version", "course", "exported", "progress", "name", "items", "seal"]
    assert told["name"] == "Ada" and told["seal"] == seal(told)
    goal, merge = told["items"]
    assert (goal["item"], goal["attempts"]) == ("01-goal", 3)
    assert (goal["first_verdict"], goal["last_verdict"], goal["solved"]) == ("incorrect", "incorrect", True)
    assert (merge["attempts"], merge["hints"], merge["solution_shown"], merge["solved"]) == (1, 1, True, False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", goal["first_time"])


def test_nothing_personal_is_handed_in(student, tmp_path):
    """No answer, code, message, account, computer or path; and no name unless one is given."""
    text = student("ada.json", WRONG, MERGE_WRONG).read_text(encoding="utf-8")
    assert json.loads(text)["name"] == ""
    for secret in ("secret", str(tmp_path), str(Path.home()), os.uname().nodename if hasattr(os, "uname") else "\0"):
        assert secret not in text


def test_an_export_overwrites_nothing_and_is_never_empty(student, tmp_path):
    with pytest.raises(ValueError, match="nothing to hand in"):
        student("empty.json")
    path = student("ada.json", RIGHT)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="is there already"):
        student("ada.json")
    assert path.read_bytes() == before
    for name in ("x" * 81, "two\nlines", "bell\a", "turned\u202eround"):
        with pytest.raises(ValueError, match="does not fit"):
            student("other.json", RIGHT, name=name)
    assert not (tmp_path / "class" / "other.json").exists()


@pytest.mark.parametrize("name", ["Ada\N{NO-BREAK SPACE}Lovelace", "علی\u200cرضا", "ක්\u200dරිෂ්ණ", "Zoë", "李雷"])
def test_names_of_every_script_are_taken_and_read(student, name):
    assert class_report.read(student("named.json", RIGHT, name=name)).label == name


def test_two_exports_of_a_store_bear_the_same_number_and_two_stores_do_not(student):
    first, second = student("a.json", RIGHT, home="one"), student("b.json", MERGE_WRONG, home="one")
    other = student("c.json", RIGHT)
    numbers = [json.loads(path.read_text(encoding="utf-8"))["progress"] for path in (first, second, other)]
    assert numbers[0] == numbers[1] != numbers[2]


def test_the_report_counts(student, tmp_path):
    student("ada.json", RIGHT, MERGE_RIGHT, name="Ada")
    student("bob.json", WRONG, RIGHT, MERGE_WRONG, MERGE_WRONG, MERGE_WRONG, HINT, name="Bob")
    student("cy.json", WRONG, WRONG, RIGHT, WRONG)
    students, skipped = class_report.read_folder(tmp_path / "class")
    assert skipped == [] and [each.label for each in students][:2] == ["Ada", "Bob"]
    assert {each.label: each.stuck_on for each in students}["Bob"] == ["03-merge"]
    assert students[2].stuck_on == [], "who was right once is not stuck, whatever was tried afterwards"
    goal, merge = class_report.summary(students)
    assert (goal.item, goal.tried, goal.at_once, goal.later, goal.not_yet) == ("01-goal", 3, 1, 2, 0)
    assert (merge.item, merge.tried, merge.at_once, merge.later, merge.not_yet) == ("03-merge", 2, 1, 0, 1)
    assert goal.attempts == pytest.approx((1 + 2 + 4) / 3) and merge.hints == 0.5
    assert goal.wrong_at_first == pytest.approx(2 / 3)

    text = class_report.class_report(tmp_path / "class")
    page = (tmp_path / "class" / class_report.REPORT).read_text(encoding="utf-8")
    assert "3 students, 2 items tried" in text and "3 students, 2 items tried" in page
    assert re.search(r"^Bob +1 +03-merge ", text, re.MULTILINE)
    assert '<img alt="Bars, one an item' in page and "data:image/svg+xml;base64," in page


def changed(path, **entries):
    """The file with other entries and a seal that fits them."""
    told = json.loads(path.read_text(encoding="utf-8")) | entries
    path.write_text(json.dumps(told | {"seal": seal(told)}), encoding="utf-8")


def test_bad_files_are_named_with_the_reason_and_left_out(student, tmp_path):
    good = student("good.json", RIGHT, name="Ada")
    told = json.loads(good.read_text(encoding="utf-8"))
    item = told["items"][0]
    sealed = {
        "future.json": ({"version": 2}, "from the future: it has version 2"),
        "no version.json": ({"version": "1"}, "its version is '1'"),
        "name.json": ({"name": "a\nb"}, "its name is not"),
        "number.json": ({"progress": "../../etc/passwd"}, "the number of its progress"),
        "time.json": ({"exported": "yesterday"}, "its time or its items"),
        "many.json": ({"items": [item] * 1001}, "its time or its items"),
        "twice.json": ({"items": [item, item]}, "stands in it twice"),
        "fields.json": ({"items": [item | {"more": 1}]}, "does not have the fields"),
        "id.json": ({"items": [item | {"item": "<script>"}]}, "what cannot be"),
        "lesson.json": ({"items": [item | {"lesson": "02"}]}, "what cannot be"),
        "bool.json": ({"items": [item | {"attempts": True}]}, "what cannot be"),
        "huge.json": ({"items": [item | {"attempts": 10**9}]}, "what cannot be"),
        "unsolved.json": ({"items": [item | {"solved": False}]}, "what cannot be"),
    }
    expected = {name: words for name, (_, words) in sealed.items()}
    for name, (entries, _) in sealed.items():
        path = tmp_path / "class" / name
        path.write_bytes(good.read_bytes())
        changed(path, **entries)
    raw = {
        "edited.json": (json.dumps(told | {"name": "Bob"}).encode(), "not what its seal says"),
        "foreign.json": (b'{"format": "another course"}', "foreign"),
        "list.json": (b"[]", "foreign"),
        "cut.json": (good.read_bytes()[:100], "it is no JSON"),
        "binary.json": (b"\xff\xfe\x00", "it is no JSON"),
        "deep.json": (b"[" * 100_000, "it is no JSON"),
        "large.json": (b" " * 1_000_001, "larger than 1,000,000 bytes"),
    }
    for name, (content, words) in raw.items():
        (tmp_path / "class" / name).write_bytes(content)
        expected[name] = words
    if hasattr(os, "symlink"):
        (tmp_path / "class" / "link.json").symlink_to(good)
        expected["link.json"] = "a link"
    (tmp_path / "class" / "notes.txt").write_text("not looked at")
    students, skipped = class_report.read_folder(tmp_path / "class")
    assert [each.label for each in students] == ["Ada"]
    reasons = {path.name: reason for path, reason in skipped}
    assert sorted(reasons) == sorted(expected)
    for name, words in expected.items():
        assert words in reasons[name], name
    report = class_report.class_report(tmp_path / "class")
    assert all(name in report for name in expected)


def test_of_one_student_the_latest_export_counts_wherever_it_lies(student, tmp_path):
    first = student("a.json", WRONG, home="one")
    second = student("b.json", RIGHT, home="one")
    changed(second, exported="2999-01-01T00:00:00Z")
    copy = tmp_path / "class" / "below" / "copy.json"
    copy.parent.mkdir()
    copy.write_bytes(second.read_bytes())
    (one,), skipped = class_report.read_folder(tmp_path / "class")
    assert one.items[0].solved
    reasons = {path: reason for path, reason in skipped}
    assert "an earlier export of the student of" in reasons.pop(first)
    assert "the same export as" in next(iter(reasons.values()))


def test_names_cannot_write_into_the_page(student, tmp_path):
    student("a.json", WRONG, name="<script>alert(1)</script>")
    class_report.class_report(tmp_path / "class")
    page = (tmp_path / "class" / class_report.REPORT).read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page


def test_a_folder_without_files_gives_an_empty_report(tmp_path):
    assert "0 students, 0 items tried" in class_report.class_report(tmp_path)


def test_the_command_line(student, tmp_path, capsys, monkeypatch):
    student("ada.json", RIGHT, MERGE_WRONG)
    assert command_line.main(["progress"]) == 0
    assert re.search(r"^01 .* 1 of \d+ +0 of 1$", capsys.readouterr().out, re.MULTILINE)
    out = tmp_path / "class" / "out.json"
    assert command_line.main(["progress", "export", str(out), "Ada L"]) == 0
    assert "2 items, by Ada L" in capsys.readouterr().out
    assert command_line.main(["progress", "export", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert command_line.main(["class-report", str(tmp_path / "class")]) == 0
    assert "1 student, 2 items tried" in capsys.readouterr().out
    assert command_line.main(["class-report", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command_line.main(["progress", "imports", "x"])


def test_every_item_of_an_export_is_read_again(student):
    path = student("ada.json", WRONG, MERGE_RIGHT)
    written = json.loads(path.read_text(encoding="utf-8"))["items"]
    assert [asdict(item) for item in class_report.read(path).items] == written


def test_a_file_is_taken_up_once_and_says_the_same_again(student, tmp_path, monkeypatch):
    acts = [WRONG, RIGHT, WRONG, MERGE_WRONG, MERGE_WRONG, MERGE_WRONG, HINT, SOLUTION]
    told = student("ada.json", *acts)
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "elsewhere"))
    assert command_line.main(["progress", "import", str(told)]) == 0
    assert submission.items() == list(class_report.read(told).items)
    before = progress.events()
    assert taking_up.take_up(told) == [] and progress.events() == before
    shown = quiz.Quiz(load_question("01-goal"))  # it has been answered, but nobody knows how
    assert shown.answer == "" and shown.result == {}


def test_what_was_tried_here_stays_unless_the_file_has_solved_it(student, tmp_path, monkeypatch):
    told = student("ada.json", RIGHT, MERGE_WRONG)
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "elsewhere"))
    for item, kind, outcome in (WRONG, MERGE_WRONG):
        progress.record(item, kind, outcome)
    assert [item.item for item in taking_up.take_up(told)] == ["01-goal"]
    goal, merge = submission.items()
    assert (goal.attempts, goal.solved, merge.attempts) == (2, True, 1)


def test_a_file_that_is_not_what_its_seal_says_is_not_taken_up(student, capsys):
    told = student("ada.json", WRONG)
    told.write_text(told.read_text().replace("incorrect", "correct"))
    before = progress.events()
    assert command_line.main(["progress", "import", str(told)]) != 0
    assert "seal" in capsys.readouterr().err and progress.events() == before
