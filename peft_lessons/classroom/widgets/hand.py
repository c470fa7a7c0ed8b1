"""Letters that a student draws by hand, for a model to learn: `draw_letters` asks for them.

The page draws: ink.js makes the picture of a letter from its strokes, and both come here with every stroke. Here they
are checked, and kept with the progress: an event for each letter that changed, the last of which counts. An export of
the progress, and a class report, tell of questions and exercises alone. A notebook that is saved holds what its widgets
show, and so the letters, too.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import anywidget
import traitlets
from IPython.display import display

from peft_lessons.classroom import progress
from peft_lessons.classroom.output.cards import UNSEEN
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.models.letters import LETTERS, letter_ids
from peft_lessons.tasks import TRAINED_LETTERS, Pictures, pictures_in

KIND = "hand"  # of the events; their items are "hand-A" and so on
PICTURE = re.compile(r"[0-9a-f]{1024}")  # a digit a pixel, as in data.typefaces

# What hand.js and ink.js send.
SIDE = 512  # of the square in which strokes are drawn
THINNEST, BOLDEST = 16, 80  # pens, on that square
MOST = 4000  # points of a letter

Drawn = dict[str, Any]  # of a letter: strokes [[[x, y], …], …], pen, and the picture that they make


def draw_letters(letters: str = TRAINED_LETTERS) -> "Hand":
    """Display a square in which the student draws `letters`, one after the other; return what is drawn there.

    It has `letters`, those drawn so far, and `pictures()`. What was drawn on an earlier day is there again.

    Raises ValueError for no letter, or anything but A–Z and a–z.
    """
    hand = Hand(letters)
    display(hand)
    return hand


class Hand(anywidget.AnyWidget):
    """The widget that `draw_letters` shows. `drawn` comes from the browser; `kept` says that it was stored."""

    _esm = source("parts.js", "ink.js", "hand.js")
    _css = source("theme.css", "parts.css", "hand.css")

    asked = traitlets.Unicode().tag(sync=True)
    drawn = traitlets.Dict().tag(sync=True, echo_update=False)  # a number, and letters: what is drawn of each, by name
    kept = traitlets.Dict().tag(sync=True)  # the number of what was stored, and a notice where it could not be

    def __init__(self, letters: str) -> None:
        letter_ids(letters)
        if not letters:
            raise ValueError("no letter is asked for; give some of A–Z and a–z")
        asked = in_order(letters)
        super().__init__(asked=asked, drawn={"number": 0, "letters": stored(asked)}, kept={"number": 0, "notice": ""})
        self.observe(self._keep, "drawn")

    @property
    def letters(self) -> str:
        """The letters that are drawn, in the order of `LETTERS`."""
        return in_order(self.drawn["letters"])

    def pictures(self) -> Pictures:
        """Return the letters that are drawn as pictures (letters, 32, 32) from −1, paper, to 1, ink, and their labels.

        Raises ValueError when none is drawn.
        """
        if not self.letters:
            raise ValueError(
                f"no letter is drawn yet: draw some of {self.asked}, or take a typeface: letters_of('Lobster').train"
            )
        digits = [self.drawn["letters"][letter]["picture"] for letter in self.letters]
        return pictures_in(digits), letter_ids(self.letters)

    @traitlets.validate("drawn")
    def _possible(self, proposal: dict[str, Any]) -> dict[str, Any]:
        drawn = proposal["value"]
        if (
            drawn.keys() != {"number", "letters"}
            or type(drawn["number"]) is not int
            or not isinstance(drawn["letters"], dict)
            or not all(letter in set(self.asked) and possible(one) for letter, one in drawn["letters"].items())
        ):
            raise traitlets.TraitError(f"{self.asked} cannot be drawn as {drawn!r:.200}")
        return drawn

    def _keep(self, change: dict[str, Any]) -> None:
        old, new = change["old"]["letters"], change["new"]["letters"]
        notice = progress.note(
            progress.happening(f"{KIND}-{letter}", KIND, "drawn", json.dumps(new[letter], separators=(",", ":")))
            if letter in new
            else progress.happening(f"{KIND}-{letter}", KIND, "cleared")
            for letter in self.asked
            if new.get(letter) != old.get(letter)
        )
        self.kept = {"number": change["new"]["number"], "notice": notice}

    def __repr__(self) -> str:
        return f"Draw by hand: {' '.join(self.asked)}"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle[0]["text/plain"] = repr(self)
            bundle[0]["text/html"] = (
                f"{UNSEEN}<p><strong>Draw by hand:</strong> {' '.join(self.asked)}<br>Drawing needs a running kernel: "
                "open this lesson in JupyterLab. Where nothing is drawn, a typeface stands in for the hand.</p>"
            )
        return bundle


def in_order(letters: Iterable[str]) -> str:
    return "".join(sorted(set(letters), key=LETTERS.index))


def stored(letters: str) -> dict[str, Drawn]:
    """Read what is kept of these letters, the last drawn at the end; what is damaged counts as if it were not there."""
    found: dict[str, Drawn] = {}
    for event in progress.events(kind=KIND):
        letter = event.item.removeprefix(f"{KIND}-")
        one = _read(event.detail)
        if letter in set(letters) and (event.outcome == "cleared" or one):
            found.pop(letter, None)
            if one:
                found[letter] = one
    return found


def _read(detail: str) -> Drawn | None:
    try:
        one = json.loads(detail)
    except (ValueError, RecursionError):
        return None
    return one if possible(one) else None


def possible(one: Any) -> bool:
    """Whether this is what may be drawn of a letter, all of its values where they can be."""
    if not isinstance(one, dict) or one.keys() != {"strokes", "pen", "picture"}:
        return False
    strokes, pen, picture = one["strokes"], one["pen"], one["picture"]
    return (
        _whole(pen, THINNEST, BOLDEST)
        and isinstance(picture, str)
        and PICTURE.fullmatch(picture) is not None
        and _some(strokes)
        and all(map(_some, strokes))
        and sum(map(len, strokes)) <= MOST
        and all(
            _some(point) and len(point) == 2 and all(_whole(x, 0, SIDE) for x in point)
            for stroke in strokes
            for point in stroke
        )
    )


def _some(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high
