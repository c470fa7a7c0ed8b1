"""What a class gets wrong and who is stuck: `peft-lessons class-report FOLDER`, from files of `submission`.

A file is read only if it is what its seal says, and counted once for each student: the latest of several exports. All
others are named with the reason and left out. Stuck is whoever tried an item `STUCK_AFTER` times or more and was never
right.
"""

import html
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeGuard, get_type_hints

from matplotlib.figure import Figure

from peft_lessons.classroom.output.figures import PALETTE, html_table, image_tag, new_figure, svg, text_table
from peft_lessons.classroom.progress import submission
from peft_lessons.classroom.progress.submission import Item
from peft_lessons.files import write_text

LARGEST_FILE = 1_000_000  # bytes; a whole course is below 50,000
MOST_ITEMS = 1000
STUCK_AFTER = 3
REPORT = "class-report.html"
_ID = re.compile(r"\d\d-[a-z0-9-]{1,60}")
_TYPES = get_type_hints(Item)
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { border: 1px solid #888; padding: .2rem .6rem; text-align: left }
caption { text-align: left; font-weight: bold }
img { max-width: 100%; background: white }
"""


@dataclass(frozen=True)
class Student:
    """One file: whom it is about (the name given, else the store's number), when it was made, and what it says."""

    label: str
    progress: str
    exported: str
    items: tuple[Item, ...]
    file: Path

    @property
    def stuck_on(self) -> list[str]:
        return [item.item for item in self.items if item.attempts >= STUCK_AFTER and not item.solved]


@dataclass(frozen=True)
class Row:
    """One item over the whole class: how many tried it, were right at once, later, or not yet; mean attempts."""

    item: str
    tried: int
    at_once: int
    later: int
    not_yet: int
    attempts: float
    hints: float
    solutions: int

    @property
    def wrong_at_first(self) -> float:
        return 1 - self.at_once / self.tried


def read_folder(folder: Path) -> tuple[list[Student], list[tuple[Path, str]]]:
    """Return the students of all *.json files in `folder` and below, and the files left out, each with the reason.

    Links are not followed. Raises NotADirectoryError when `folder` is none.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    latest: dict[str, Student] = {}
    skipped: list[tuple[Path, str]] = []
    for path in _files(folder):
        try:
            student = read(path)
        except (OSError, ValueError) as error:
            skipped.append((path, str(error)))
            continue
        known = latest.get(student.progress)
        if known is not None:
            older, newer = sorted((known, student), key=lambda each: each.exported)
            same = (older.exported, older.items) == (newer.exported, newer.items)
            reason = "the same export as" if same else "an earlier export of the student of"
            skipped.append((older.file, f"{reason} {newer.file.relative_to(folder)}"))
            student = newer
        latest[student.progress] = student
    return sorted(latest.values(), key=lambda each: (each.label.casefold(), each.progress)), skipped


def read(path: Path) -> Student:
    """Read the student of a file. Raises ValueError that says what is wrong with it, OSError when it cannot be read."""
    if path.is_symlink():
        raise ValueError("a link, which is not followed")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE:,} bytes, so no export of this course")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged: it is no JSON ({type(error).__name__})") from error
    if not isinstance(told, dict) or told.get("format") != submission.FORMAT:
        raise ValueError("foreign: it is no progress of this course")
    version = told.get("version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"damaged: its version is {version!r}")
    if version > submission.VERSION:
        raise ValueError(
            f"from the future: it has version {version}, and this course reads {submission.VERSION}; update the course"
        )
    if told.get("seal") != submission.seal(told):
        raise ValueError("damaged: it is not what its seal says; ask for a new export")
    name, number, exported = (told.get(key) for key in ("name", "progress", "exported"))
    if not isinstance(name, str) or not submission.is_name(name):
        raise ValueError(f"damaged: its name is not a short printable text but {name!r:.60}")
    if not isinstance(number, str) or not re.fullmatch(r"[0-9a-f]{16}", number):
        raise ValueError("damaged: the number of its progress is none")
    rows = told.get("items")
    if not _is_time(exported) or not isinstance(rows, list) or len(rows) > MOST_ITEMS:
        raise ValueError("damaged: its time or its items are none")
    items = tuple(map(_item, rows))
    if len({item.item for item in items}) != len(items):
        raise ValueError("damaged: an item stands in it twice")
    return Student(name.strip() or f"student {number[:4]}", number, exported, items, path)


def summary(students: list[Student]) -> list[Row]:
    """Return a row for each item that somebody tried, what most got wrong at first on top."""
    tried: dict[str, list[Item]] = defaultdict(list)
    for student in students:
        for item in student.items:
            tried[item.item].append(item)
    rows = []
    for which, own in tried.items():
        solved = sum(item.solved for item in own)
        at_once = sum(item.first_verdict == "correct" for item in own)
        rows.append(
            Row(
                item=which,
                tried=len(own),
                at_once=at_once,
                later=solved - at_once,
                not_yet=len(own) - solved,
                attempts=sum(item.attempts for item in own) / len(own),
                hints=sum(item.hints for item in own) / len(own),
                solutions=sum(item.solution_shown for item in own),
            )
        )
    return sorted(rows, key=lambda row: (-row.wrong_at_first, -row.not_yet, row.item))


def class_report(folder: Path) -> str:
    """Write FOLDER/class-report.html and return the same in text. NotADirectoryError when `folder` is none."""
    students, skipped = read_folder(folder)
    rows = summary(students)
    item_cells = [
        (
            row.item,
            f"{row.tried} of {len(students)}",
            str(row.at_once),
            str(row.later),
            str(row.not_yet),
            f"{row.attempts:.1f}",
            f"{row.hints:.1f}",
            str(row.solutions),
        )
        for row in rows
    ]
    item_header = ("item", "tried by", "right at once", "right later", "not yet", "attempts", "hints", "solution seen")
    student_cells = [
        (
            student.label,
            str(sum(item.solved for item in student.items)),
            ", ".join(student.stuck_on) or "–",
            student.exported,
        )
        for student in students
    ]
    student_header = ("student", "items done", "stuck on", "exported")
    left_out = [f"{path.relative_to(folder)}: {reason}" for path, reason in skipped]
    title = f"{len(students)} student{'s' * (len(students) != 1)}, {len(rows)} items tried"
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Class report</title>',
        f"<style>{_STYLE}</style></head><body><h1>Class report</h1>",
        f"<p>{title}. Stuck: at least {STUCK_AFTER} attempts, none right.</p>",
    ]
    if rows:
        page.append(image_tag(svg(figure(rows)), "image/svg+xml", described(rows)))
    page.append(html_table(item_cells, item_header, "Items, what most got wrong at first on top"))
    page.append(html_table(student_cells, student_header, "Students"))
    if left_out:
        page += ["<h2>Left out</h2><ul>", *(f"<li>{html.escape(line)}</li>" for line in left_out), "</ul>"]
    write_text(folder / REPORT, "\n".join([*page, "</body></html>\n"]))
    text = [title, "", text_table(item_cells, item_header), "", text_table(student_cells, student_header)]
    if left_out:
        text += ["", "Left out:", *(f"  {line}" for line in left_out)]
    return "\n".join([*text, "", f"With a figure: {folder / REPORT}"])


def figure(rows: list[Row], most: int = 25) -> Figure:
    """Draw the first `most` rows as bars: how many were right at once, later, not yet."""
    shown = rows[:most]
    fig, axes = new_figure(height=1.2 + 0.28 * len(shown), width=8)
    start = [0] * len(shown)
    for part, label, colour, hatch in (
        ("at_once", "right at once", PALETTE[0], ""),
        ("later", "right later", PALETTE[4], "//"),
        ("not_yet", "not yet", PALETTE[3], "xx"),
    ):
        widths = [getattr(row, part) for row in shown]
        axes.barh([row.item for row in shown], widths, left=start, label=label, color=colour, hatch=hatch, ec="white")
        start = [a + b for a, b in zip(start, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("students")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", visible=False)
    fig.legend(loc="outside lower center", ncols=3, frameon=False)
    return fig


def described(rows: list[Row]) -> str:
    """Describe the figure in words."""
    worst = "; ".join(f"{row.item}: {row.tried - row.at_once} of {row.tried} wrong at first" for row in rows[:5])
    return f"Bars, one an item: students who were right at once, later, or not yet. {worst}."


def _files(folder: Path) -> Iterator[Path]:
    """All *.json files, in order; folders that are links are not entered."""
    for where, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(where) / name for name in sorted(names) if name.lower().endswith(".json"))


def _is_time(value: Any) -> TypeGuard[str]:
    try:
        return isinstance(value, str) and bool(datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return False


def _item(row: Any) -> Item:
    names = [field.name for field in fields(Item)]
    if not isinstance(row, dict) or sorted(row) != sorted(names):
        raise ValueError(f"damaged: an item does not have the fields {', '.join(names)}")
    item = Item(**row)
    fits = (
        all(type(row[name]) is _TYPES[name] for name in names)
        and _ID.fullmatch(item.item)
        and item.lesson == item.item[:2]
        and item.kind in submission.KINDS
        and {item.first_verdict, item.last_verdict} <= set(submission.VERDICTS)
        and _is_time(item.first_time)
        and _is_time(item.last_time)
        and item.solved >= ("correct" in (item.first_verdict, item.last_verdict))
        and 0 < item.attempts < 1_000_000
        and 0 <= item.hints < 1000
    )
    if not fits:
        raise ValueError(f"damaged: it says of {item.item!r:.40} what cannot be")
    return item
