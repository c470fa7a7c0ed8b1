"""Speaker's notes: one `notes.toml` a lesson, read here. `peft-lessons talk 3` prints them.

A file states the minutes of the whole talk, then its parts in the lesson's order, one for the title and each section up
to the summary. A part has a heading, minutes, what to say or ask, and where students stumble; `short` are its minutes
in the talk of 90 minutes about the whole course, if it belongs there.

    minutes = 40

    [[part]]
    heading = "The idea in one line"
    minutes = 4
    say = "…"
    stumble = "…"
"""

import textwrap
import tomllib
from dataclasses import dataclass

from peft_lessons.lessons.catalogue import folders

FILE = "notes.toml"
AFTER_THE_TALK = ("What is not known", "Sources", "Next step")  # sections without notes


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of a lesson as a part of a talk; minutes are those of the lesson's own talk and of the short one."""

    heading: str
    minutes: int
    say: str
    stumble: str
    short: int = 0


@dataclass(frozen=True)
class Talk:
    """A lesson's notes."""

    number: str
    minutes: int
    parts: tuple[Part, ...]


def talk_numbers() -> list[str]:
    """Return the numbers of the lessons that have notes."""
    return [number for number, folder in folders().items() if (folder / FILE).is_file()]


def load_talk(number: str) -> Talk:
    """Return the notes of the lesson with this number; raise ValueError that lists what there is when it has none."""
    if number not in talk_numbers():
        raise ValueError(f"no notes for lesson {number!r}; there are notes for {', '.join(talk_numbers())}")
    content = tomllib.loads((folders()[number] / FILE).read_text(encoding="utf-8"))
    return Talk(number, content["minutes"], tuple(Part(**part) for part in content["part"]))


def notes(talk: Talk) -> str:
    """Return the notes as a page of plain text, with the minute at which each part begins."""
    lines, start = [], 0
    for part in talk.parts:
        lines += [f"{start:3} min  {part.heading} ({part.minutes} min)"]
        for mark, text in (("   ", part.say), ("(!)", part.stumble)):
            lines += textwrap.wrap(text, 100, initial_indent=f"     {mark} ", subsequent_indent=" " * 9)
        lines.append("")
        start += part.minutes
    return "\n".join([*lines, f"{start:3} min  end"])
