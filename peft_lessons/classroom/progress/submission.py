"""What a student can hand in: their progress as one JSON file, `peft-lessons progress export FILE`.

It says what happened to each question and exercise: how often it was tried, the first and the last verdict, whether
it was ever right, and when.
It holds no answer, no code, no name of a person, account or computer, except a name that the student gives. `progress`
is a random number that this store got at its first export: it tells two exports of one student from those of two.

The seal is a checksum over all the rest. It finds a file that was damaged or edited in passing; it cannot find one that
somebody sealed again on purpose.
"""

import hashlib
import json
import secrets
import unicodedata
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peft_lessons import __version__
from peft_lessons.classroom import progress
from peft_lessons.classroom.exercises import exercise_ids
from peft_lessons.classroom.output.figures import text_table
from peft_lessons.files import write_text
from peft_lessons.lessons.questions import question_ids

FORMAT = "peft-lessons progress"
VERSION = 1
LONGEST_NAME = 80
VERDICTS = ("correct", "incorrect")
KINDS = ("quiz", "exercise")


@dataclass(frozen=True)
class Item:
    """What happened to one question or exercise; times are UTC, ISO 8601 to the second."""

    lesson: str
    item: str
    kind: str  # one of KINDS
    attempts: int
    first_verdict: str  # one of VERDICTS
    last_verdict: str  # may be incorrect of a solved question: its wrong options have feedback worth reading
    solved: bool  # correct at least once
    first_time: str
    last_time: str
    hints: int  # how many different ones were shown
    solution_shown: bool


def items() -> list[Item]:
    """Every question and exercise that was tried, in the order of the lessons."""
    events = progress.events()
    found = []
    for lesson in progress.lessons():
        for kind, ids in zip(KINDS, (question_ids(lesson.number), exercise_ids(lesson.number)), strict=True):
            for which in ids:
                own = [event for event in events if event.item == which]
                tries = [event for event in own if event.kind == kind and event.outcome in VERDICTS]
                if tries:
                    first, last = tries[0], tries[-1]
                    found.append(
                        Item(
                            lesson=lesson.number,
                            item=which,
                            kind=kind,
                            attempts=len(tries),
                            first_verdict=first.outcome,
                            last_verdict=last.outcome,
                            solved=any(event.outcome == "correct" for event in tries),
                            first_time=_to_the_second(first.time),
                            last_time=_to_the_second(last.time),
                            hints=len({event.detail for event in own if event.kind == "hint"}),
                            solution_shown=any(event.kind == "solution" for event in own),
                        )
                    )
    return found


def table() -> str:
    """List the lessons with what is done of each, for a terminal."""
    rows = [
        (
            f"{row['number']} {row['title']}",
            f"{row['quiz']['done']} of {row['quiz']['total']}",
            f"{row['exercise']['done']} of {row['exercise']['total']}",
        )
        for row in progress.lesson_progress()
    ]
    return text_table(rows, ("lesson", "questions", "exercises"))


def export(path: Path, name: str = "") -> list[Item]:
    """Write the progress to `path` (JSON), with `name` in it if one is given; returns what it says.

    Raises:
        ValueError: nothing was tried yet, or the name is too long or holds characters that do not print.
        FileExistsError: `path` is there already; nothing is overwritten.
    """
    found = items()
    if not found:
        raise ValueError(
            f"there is nothing to hand in: no question or exercise was tried yet ({progress.store_path()})"
        )
    if not is_name(name):
        raise ValueError(f"the name {name!r} does not fit: at most {LONGEST_NAME} characters, all of them printable")
    if path.exists():
        raise FileExistsError(f"{path} is there already; give another file, or move it away")
    told = {
        "format": FORMAT,
        "version": VERSION,
        "course": __version__,
        "exported": _to_the_second(datetime.now(UTC).isoformat()),
        "progress": _store_id(),
        "name": name,
        "items": [asdict(item) for item in found],
    }
    write_text(path, json.dumps(told | {"seal": seal(told)}, indent=1, ensure_ascii=False) + "\n")
    return found


def is_name(name: str) -> bool:
    """Whether `name` is short and holds only what prints, spaces of any width, and the joiners of some scripts."""
    joiners = "\u200c\u200d"  # Persian and many Indian names are misspelt without them
    return len(name) <= LONGEST_NAME and all(
        character.isprintable() or character in joiners or unicodedata.category(character) == "Zs" for character in name
    )


def seal(told: dict[str, Any]) -> str:
    """Return the checksum of everything in a file but the seal itself."""
    text = json.dumps({key: value for key, value in told.items() if key != "seal"}, sort_keys=True, ensure_ascii=True)
    return f"sha256:{hashlib.sha256(text.encode('ascii')).hexdigest()}"


def _store_id() -> str:
    """Return the random number of this store, drawn when it is first asked for. ValueError when it cannot be kept."""
    for event in progress.events("export"):
        return event.detail
    if notice := progress.record("export", "export", "first", secrets.token_hex(8)):
        raise ValueError(notice)
    return progress.events("export")[0].detail


def _to_the_second(time: str) -> str:
    return datetime.fromisoformat(time).strftime("%Y-%m-%dT%H:%M:%SZ")
