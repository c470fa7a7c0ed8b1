"""A student's progress: an append-only SQLite file of events in the user's data directory, and what it says of lessons.

Each event is written over its own connection in one transaction, which keeps every event when several kernels write at
once. The journal mode stays SQLite's default: write-ahead logging does not work on network home directories.
Progress is a convenience, so nothing here ever stops a lesson: what cannot be saved is said once, in the card.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs

from peft_lessons.classroom import exercises
from peft_lessons.files import user_path
from peft_lessons.lessons.catalogue import lessons
from peft_lessons.lessons.questions import question_ids

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,     -- UTC, ISO 8601
    lesson TEXT NOT NULL,   -- "03"
    item TEXT NOT NULL,     -- "03-merge"
    kind TEXT NOT NULL,     -- "quiz", "review", "exercise", "hint", "solution", "guess", "hand", "export"
    outcome TEXT NOT NULL,  -- "correct", "incorrect", "not attempted", "shown", "drawn", "cleared"
    detail TEXT NOT NULL    -- what the kind needs to restore its state
)
"""


@dataclass(frozen=True)
class Event:
    """One row of the store: what happened to an item such as "03-merge", in the order of writing."""

    time: str
    lesson: str
    item: str
    kind: str
    outcome: str
    detail: str


@dataclass(frozen=True)
class StoreStatus:
    """Whether progress can be saved, where, what is wrong in words, and what mends it."""

    ok: bool
    path: Path | None
    message: str
    remedy: str = ""


class NewerStoreError(Exception):
    """The store was written by a later version of the course."""


def home() -> Path:
    """Return the folder of the progress store: PEFT_LESSONS_HOME, else the user's data directory.

    Raises OSError where that says nothing: a relative PEFT_LESSONS_HOME would be another folder in each working
    directory, and a user without an account may have no home.
    """
    chosen = os.environ.get("PEFT_LESSONS_HOME")
    folder = user_path(chosen or platformdirs.user_data_dir("peft-lessons", appauthor=False))
    if chosen and not folder.is_absolute():
        raise OSError(f"PEFT_LESSONS_HOME is {chosen!r}, and must be a whole path such as {Path.cwd() / chosen}")
    return folder


def store_path() -> Path:
    return home() / "progress.sqlite3"


def record(item: str, kind: str, outcome: str, detail: str = "") -> str:
    """Append what happened now. Return "", or the sentence that tells the student that it could not be saved.

    A kernel says that sentence once, then stays silent.
    """
    return note([happening(item, kind, outcome, detail)])


def happening(item: str, kind: str, outcome: str, detail: str = "") -> Event:
    """Return what happens now as an event. The lesson is the item's first part: "03" of "03-merge"."""
    return Event(datetime.now(UTC).isoformat(), item.split("-")[0], item, kind, outcome, detail)


def note(happened: Iterable[Event]) -> str:
    """Append events, all of them or none. Return what `record` returns."""
    try:
        with _transaction() as connection:
            connection.executemany(
                "INSERT INTO events (time, lesson, item, kind, outcome, detail) VALUES (?, ?, ?, ?, ?, ?)",
                map(astuple, happened),
            )
    except (OSError, sqlite3.Error, NewerStoreError) as error:
        return _warning(error)
    return ""


def events(item: str | None = None, kind: str | None = None) -> list[Event]:
    """All events, oldest first, of one item or kind where given; none when the store cannot be read."""
    query, values = "SELECT time, lesson, item, kind, outcome, detail FROM events", []
    conditions = [(column, value) for column, value in (("item", item), ("kind", kind)) if value is not None]
    if conditions:
        query += " WHERE " + " AND ".join(f"{column} = ?" for column, _ in conditions)
        values = [value for _, value in conditions]
    try:
        if not store_path().exists():
            return []
        with _transaction() as connection:
            return [Event(*row) for row in connection.execute(query + " ORDER BY id", values)]
    except (OSError, sqlite3.Error, NewerStoreError):
        return []


def store_status() -> StoreStatus:
    """Try the store as a lesson would, without leaving an event in it."""
    path = None
    try:
        path = store_path()
        with _transaction() as connection:
            connection.execute("SAVEPOINT trial")
            connection.execute("INSERT INTO events VALUES (NULL, '', '', '', 'trial', '', '')")
            connection.execute("ROLLBACK TO trial")
            count = connection.execute("SELECT count(*) FROM events").fetchone()[0]
    except (OSError, sqlite3.Error, NewerStoreError) as error:
        return StoreStatus(False, path, f"progress cannot be saved{_in(path)}: {error}", _remedy(error))
    return StoreStatus(True, path, f"progress is saved in {path} ({count:,} events)")


@contextmanager
def _transaction() -> Iterator[sqlite3.Connection]:
    """Yield a connection inside one transaction on a store that has the schema; wait up to 10 s for other writers."""
    path = store_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise NewerStoreError(f"it was written by a later version of this course (schema {version})")
        if version == 0:
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        yield connection
        connection.execute("COMMIT")


_warned = False


def _warning(error: Exception) -> str:
    global _warned
    if _warned:
        return ""
    _warned = True
    try:
        folder = home()
    except OSError:
        folder = None
    return f"Your progress is not being saved{_in(folder)}: {error}. {_remedy(error)} The lesson goes on without it."


def _in(path: Path | None) -> str:
    return f" in {path}" if path else ""


def _remedy(error: Exception) -> str:
    if isinstance(error, NewerStoreError):
        return "Update the course, or set PEFT_LESSONS_HOME to another folder."
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return f"Move {store_path()} away; a new one is then made."
    return "Set PEFT_LESSONS_HOME to a folder that you can write to."


# The lessons


def counted(stored: list[Event], kind: str, items: list[str]) -> dict[str, int]:
    """How many of `items` were answered or solved at least once, and of how many."""
    correct = {event.item for event in stored if event.kind == kind and event.outcome == "correct"}
    return {"done": sum(item in correct for item in items), "total": len(items)}


def lesson_progress() -> list[dict[str, Any]]:
    """One row a lesson: its facts, and how many of its items were answered or solved at least once."""
    stored = events()
    return [
        {
            "number": lesson.number,
            "title": lesson.title,
            "notebook": lesson.notebook,
            "reading": lesson.reading_minutes,
            "running": lesson.running_minutes,
            "quiz": counted(stored, "quiz", question_ids(lesson.number)),
            "exercise": counted(stored, "exercise", exercises.exercise_ids(lesson.number)),
        }
        for lesson in lessons()
    ]
