"""Take up progress that was made elsewhere, on the course's site for instance: `peft-lessons progress import FILE`.

A file says how often an item was tried and what came of it, not what was answered; so does the store then. What was
tried here stays as it is, except for an item that only the file has solved. To take a file up twice changes nothing.
"""

from collections.abc import Iterator
from pathlib import Path

from peft_lessons.classroom import progress
from peft_lessons.classroom.progress import submission
from peft_lessons.classroom.progress.class_report import read
from peft_lessons.classroom.progress.submission import Item


def take_up(path: Path) -> list[Item]:
    """Note what the file at `path` says and the store does not; return those items.

    Raises:
        ValueError: the file is damaged, foreign or of a later version, or the progress cannot be saved; says which.
        OSError: it cannot be read.
    """
    here = {item.item: item for item in submission.items()}
    news = [item for item in read(path).items if item.item not in here or (item.solved and not here[item.item].solved)]
    if notice := progress.note(event for item in news for event in happened(item)):
        raise ValueError(notice)
    return news


def happened(item: Item) -> Iterator[progress.Event]:
    """Yield events that say the same as `item`."""
    last = [item.first_verdict, item.last_verdict] if item.attempts > 1 else [item.last_verdict]
    between = ["incorrect"] * (item.attempts - len(last))
    if item.solved and "correct" not in last:
        between[0] = "correct"
    outcomes = [*last[:-1], *between, last[-1]]
    for number, outcome in enumerate(outcomes, start=1):
        time = item.last_time if number == len(outcomes) else item.first_time
        yield progress.Event(time, item.lesson, item.item, item.kind, outcome, "{}" if item.kind == "quiz" else "")
    for number in range(1, item.hints + 1):
        yield progress.Event(item.last_time, item.lesson, item.item, "hint", "shown", str(number))
    if item.solution_shown:
        yield progress.Event(item.last_time, item.lesson, item.item, "solution", "shown", "")
