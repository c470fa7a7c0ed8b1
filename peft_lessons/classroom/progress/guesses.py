"""Whether a student's guesses become better: a course that asks for predictions should say what came of them.

A guess is an event of the kind "guess" whose detail is JSON: {"guess": …, "measured": …, "error": …}. Only the first
guess at an item counts, since a later one knows the answer.
"""

import json
from typing import Any

from peft_lessons.classroom import progress

FEWEST = 6  # before that, halves say nothing
FACTOR = 2


def improvement() -> dict[str, dict[str, int]]:
    """How many of the earlier and of the later half of all guesses were close; empty below `FEWEST` guesses."""
    first: dict[str, bool] = {}
    for event in progress.events(kind="guess"):
        first.setdefault(event.item, close(event))
    hits = list(first.values())
    if len(hits) < FEWEST:
        return {}
    earlier, later = hits[: len(hits) // 2], hits[len(hits) // 2 :]
    return {name: {"close": sum(half), "total": len(half)} for name, half in (("earlier", earlier), ("later", later))}


def close(event: progress.Event) -> bool:
    """Whether a guess lies within a factor of `FACTOR` of what was measured; of a choice, whether it was right."""
    detail = json.loads(event.detail)
    guess, measured = detail.get("guess"), detail.get("measured")
    if _is_number(guess) and _is_number(measured) and measured:
        return 1 / FACTOR <= guess / measured <= FACTOR
    return event.outcome == "correct"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
