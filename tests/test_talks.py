"""Speaker's notes: every lesson has them for each section, with minutes that add up and numbers that it holds."""

import re

import pytest

from peft_lessons import cli as command_line
from peft_lessons.course import NOTEBOOKS
from peft_lessons.lessons.catalogue import lessons
from peft_lessons.lessons.notes import AFTER_THE_TALK, load_talk, talk_numbers
from tools.lessons import instructors_guide

SHORT_MINUTES, DAY_MINUTES = 90, 390
LESSONS = pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.number)


def text_of(lesson):
    return (NOTEBOOKS / lesson.notebook).with_suffix(".md").read_text(encoding="utf-8")


def test_every_lesson_has_notes_and_nothing_else_has():
    assert talk_numbers() == [lesson.number for lesson in lessons()]


@LESSONS
def test_notes_follow_the_lesson(lesson):
    prose = re.sub(r"^(`{3,}).*?^\1", "", text_of(lesson), flags=re.MULTILINE | re.DOTALL)
    sections = [heading for heading in re.findall(r"^##? (.*)", prose, re.MULTILINE) if heading not in AFTER_THE_TALK]
    assert [part.heading for part in load_talk(lesson.number).parts] == sections


@LESSONS
def test_minutes_add_up(lesson):
    talk = load_talk(lesson.number)
    assert sum(part.minutes for part in talk.parts) == talk.minutes
    assert all(part.minutes > 0 and part.short >= 0 for part in talk.parts)


def test_the_formats_fit():
    talks = [load_talk(number) for number in talk_numbers()]
    assert sum(part.short for talk in talks for part in talk.parts) == SHORT_MINUTES
    for blocks in instructors_guide.DAYS.values():
        assert sum(load_talk(number).minutes for block in blocks for number in block.split()) <= DAY_MINUTES


@LESSONS
def test_notes_are_short_and_invent_no_number(lesson):
    text = text_of(lesson).replace(",", "").replace("_", "")
    for part in load_talk(lesson.number).parts:
        assert 1 <= len(re.findall(r"[.?!](?:\s|$)", part.say)) <= 4, part.say
        assert part.say.strip() and part.stumble.strip()
        for number in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", f"{part.say} {part.stumble}"):
            plain = number.replace(",", "")
            assert re.search(rf"(?<![\d.]){re.escape(plain)}(?!\.?\d)", text), f"{part.heading}: {number} is not there"


def test_the_command_prints_a_page(capsys):
    assert command_line.main(["talk", "03"]) == 0
    page = capsys.readouterr().out
    talk = load_talk("03")
    for part in talk.parts:
        assert f"{part.heading} ({part.minutes} min)" in page
    assert f"{talk.parts[0].minutes:3} min  {talk.parts[1].heading}" in page
    assert page.rstrip().endswith(f"{talk.minutes} min  end")
    words = " ".join(page.split())
    assert talk.parts[1].say in words and talk.parts[1].stumble in words

    assert command_line.main(["talk", "77"]) == 2
    assert "there is no lesson '77'; there is\n  00  Start here" in capsys.readouterr().err


def test_the_guide_is_made_from_the_notes():
    guide = instructors_guide.GUIDE.read_text(encoding="utf-8")
    assert instructors_guide.filled(guide) == guide, "run python -m tools.lessons.instructors_guide"
    assert {name for _, name, _ in instructors_guide.BLOCK.findall(guide)} == set(instructors_guide.TABLES)
    for lesson in lessons():
        assert f"### {lesson.number} · {lesson.title}: {load_talk(lesson.number).minutes} minutes" in guide
        assert f"{lesson.number} *{lesson.title}*" in guide.replace("\n", " "), "the days' prose names each lesson"
        blocks = [block.split() for day in instructors_guide.DAYS.values() for block in day]
        assert sum(lesson.number in block for block in blocks) == 1
