"""Fills the tables of docs/instructors.md from the lessons' notes, questions and exercises; the prose stays as it is.

python -m tools.lessons.instructors_guide
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from peft_lessons.classroom.exercises import exercise_ids, load_exercise
from peft_lessons.lessons.catalogue import Lesson, lessons
from peft_lessons.lessons.notes import load_talk
from peft_lessons.lessons.questions import load_lesson, question_ids

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "instructors.md"
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
# The lessons between two breaks, of each day.
DAYS = {"day": ("00 01 02", "03 04 05", "06 07 08", "09 10 11 12"), "second_day": ("13", "14", "15", "16")}


def table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def link(lesson: Lesson) -> str:
    return f"[{lesson.number} {lesson.title}](../notebooks/{lesson.notebook})"


def minutes() -> str:
    counts: list[tuple[int, ...]] = []
    for lesson in lessons():
        talk = load_talk(lesson.number)
        short = sum(part.short for part in talk.parts)
        counts.append((talk.minutes, short, lesson.reading_minutes, lesson.running_minutes))
    names = [*map(link, lessons()), "all"]
    counts.append(tuple(map(sum, zip(*counts, strict=True))))
    header = ("lesson", "as a talk", "of the 90", "reading alone", "running")
    return table(header, ((name, *row) for name, row in zip(names, counts, strict=True)))


def short() -> str:
    rows, start = [], 0
    for lesson in lessons():
        for part in load_talk(lesson.number).parts:
            if part.short:
                rows.append((start, part.short, lesson.number, part.heading))
                start += part.short
    return table(("from minute", "minutes", "lesson", "part"), [*rows, (start, "", "", "end")])


def day(blocks: Iterable[str]) -> str:
    known = {lesson.number: lesson for lesson in lessons()}
    rows = []
    for number, block in enumerate(blocks, 1):
        there = [known[each] for each in block.split() if each in known]
        total = sum(load_talk(lesson.number).minutes for lesson in there)
        rows.append((number, "; ".join(f"{each.number} {each.title}" for each in there) or "–", total))
    return table(("block", "lessons", "minutes"), rows)


def by_lesson() -> str:
    return "\n\n".join(map(about, lessons()))


def about(lesson: Lesson) -> str:
    """Parts, questions and exercises of one lesson."""
    talk = load_talk(lesson.number)
    rows = [(part.minutes, part.heading, part.say, part.stumble) for part in talk.parts]
    pieces = [
        f"### {lesson.number} · {lesson.title}: {talk.minutes} minutes",
        table(("min", "part", "say or ask", "where students stumble"), rows),
    ]
    for question in load_lesson(lesson.number) if question_ids(lesson.number) else []:
        lines = [f"**Quiz.** {question.text}", ""]
        lines += [f"- {'✔' if each.correct else '✘'} {each.text}: {each.feedback}" for each in question.options]
        pieces.append("\n".join(lines))
    for exercise in map(load_exercise, exercise_ids(lesson.number)):
        slips = "; ".join(exercise.wrong)
        pieces.append(f"**Exercise.** {exercise.title}, {exercise.minutes} minutes. What students write: {slips}.")
    return "\n\n".join(pieces)


TABLES: dict[str, Callable[[], str]] = {"minutes": minutes, "short": short, "by_lesson": by_lesson}
TABLES |= {name: partial(day, blocks) for name, blocks in DAYS.items()}


def filled(guide: str) -> str:
    """Return the guide's text with each table made anew."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block[2]]()}\n\n{block[3]}", guide)


if __name__ == "__main__":
    GUIDE.write_text(filled(GUIDE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
