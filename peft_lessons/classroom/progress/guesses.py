"""Whether a student's guesses become better: a course that asks for predictions should say what came of them.

A guess is an event of the kind "guess" whose detail is JSON: {"guess": …} when it was made; when it was compared, with
"measured" and "error" besides. The error is 0 for the right number, choice or order, and 1 for twice or half the number
or for another choice. Only the first comparison of an item counts, since a later guess knows the answer.
"""

import json

from peft_lessons.classroom import progress

FEWEST = 6  # before that, halves say nothing


def improvement() -> dict[str, dict[str, int]]:
    """How many of the earlier and of the later half of all guesses were off by less than twice; empty for few."""
    first: dict[str, bool] = {}
    for event in progress.events(kind="guess"):
        error = json.loads(event.detail).get("error")
        if error is not None:
            first.setdefault(event.item, error < 1)
    hits = list(first.values())
    if len(hits) < FEWEST:
        return {}
    earlier, later = hits[: len(hits) // 2], hits[len(hits) // 2 :]
    return {name: {"close": sum(half), "total": len(half)} for name, half in (("earlier", earlier), ("later", later))}
