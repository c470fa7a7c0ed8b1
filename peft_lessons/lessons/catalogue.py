"""The course's lessons: what each one's `lesson.toml` says of it, in order, and how to find one by name.

Minutes: `reading_minutes` count 200 words of prose and 30 lines of open code a minute, a minute a figure or widget, 45
seconds a quiz, 30 seconds a guess, and each exercise's own minutes; a test counts again. `running_minutes` are all
cells of the notebook on two cores, as `python -m tools.lessons.notebooks build` measures them.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Lesson:
    """A lesson's number ("03"), title, file in `notebooks/`, and minutes."""

    number: str
    title: str
    notebook: str
    reading_minutes: int
    running_minutes: int


def folders() -> dict[str, Path]:
    """Return each lesson's folder by its number, in the order of the course."""
    return {folder.name[1:3]: folder for folder in sorted(FOLDER.glob("l[0-9][0-9]_*"))}


def lessons() -> list[Lesson]:
    """Return all lessons, in the order of the course."""
    return [
        Lesson(number, notebook=f"{folder.name[1:]}.ipynb", **_toml(folder / "lesson.toml"))
        for number, folder in folders().items()
    ]


def find_lesson(name: str) -> Lesson:
    """Return the lesson that `name` means: its number ("3", "03"), its notebook's name, or a path to that.

    Raises ValueError that lists the lessons when there is none.
    """
    last = Path(name).name
    for lesson in lessons():
        if (last.isdecimal() and last.zfill(2) == lesson.number) or last.removesuffix(".ipynb") == lesson.notebook[:-6]:
            return lesson
    listed = "\n".join(f"  {lesson.number}  {lesson.title}" for lesson in lessons())
    raise ValueError(f"there is no lesson {name!r}; there is\n{listed}")


def _toml(path: Path) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))
