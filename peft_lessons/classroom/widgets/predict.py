"""A guess before a result: `predict` asks, `reveal` shows the guess beside what was measured.

The two stand in neighbouring cells. The guess is kept with the progress when it is made, so that it is still there the
next day; a lesson that runs from top to bottom without a reader simply has none. Until one has guessed or skipped, the
page veils the cell below (course.css).
"""

import json
from collections.abc import Sequence
from typing import Any

import anywidget
import traitlets
from IPython.display import display

from peft_lessons.classroom import progress
from peft_lessons.classroom.output.cards import UNSEEN, Card, inline_html
from peft_lessons.classroom.output.claims import ClaimError, Fact
from peft_lessons.classroom.output.figures import Measured, number
from peft_lessons.classroom.widgets.parts import source

CLOSE = 1.25  # a guessed number counts as right when it is within a quarter of what was measured

_asked: dict[str, "Prediction"] = {}


def predict(
    prediction_id: str,
    question: str,
    *,
    options: Sequence[str] = (),
    ranking: Sequence[str] = (),
    between: tuple[float, float] | None = None,
    curve: Sequence[Any] = (),
    unit: str = "",
) -> None:
    """Ask for a guess of what the next cell shows; that cell calls `reveal` with the same id.

    Args:
        prediction_id: the lesson's number, a hyphen and a name, such as "03-double-alpha".
        question: markdown-light text.
        options: what there is to choose from, for a choice.
        ranking: what is to be put in order, the first at the top.
        between: the lowest and highest number, for a number; a wide range (from 1:50) is a logarithmic scale.
        curve: the places on the x axis at which a value `between` is guessed.
        unit: what stands behind a number, such as "%".

    Raises:
        ValueError: not exactly one kind of guess, or a range that is empty.
    """
    display(Prediction(prediction_id, question, kind_of(options, ranking, between, curve), unit))


def reveal(prediction_id: str, measured: Any) -> None:
    """Show the guess beside what was measured, and keep both with the progress.

    Args:
        prediction_id: what `predict` was called with in this kernel.
        measured: for a number its `fact(…)`; for a choice the option's text; for a ranking the texts in their
            order; for a curve its values.

    Raises:
        ValueError: nothing was predicted under this id, or `measured` is of another kind.
        ClaimError: a fact does not hold.
    """
    if prediction_id not in _asked:
        raise ValueError(f"nothing was predicted as {prediction_id!r}; there is {', '.join(_asked) or 'nothing yet'}")
    display(_asked[prediction_id].reveal(measured))


def kind_of(
    options: Sequence[str] = (),
    ranking: Sequence[str] = (),
    between: tuple[float, float] | None = None,
    curve: Sequence[Any] = (),
) -> dict[str, Any]:
    """Return what is asked for, as the page needs it."""
    asked = [name for name, given in (("options", options), ("ranking", ranking)) if given]
    if between and not between[0] < between[1]:
        raise ValueError(f"between={between} is empty: give the lower end first")
    if len(asked) + (between is not None) != 1 or (curve and not between):
        raise ValueError("predict() takes exactly one of options, ranking and between; curve goes with between")
    if between:
        low, high = map(float, between)
        kind = {"kind": "curve", "x": [str(x) for x in curve]} if curve else {"kind": "number"}
        return {**kind, "low": low, "high": high, "log": low > 0 and high / low >= 50}
    return {"kind": "choice" if options else "ranking", "texts": list(options or ranking)}


def asked_of(prediction_id: str, question: str, kind: dict[str, Any], unit: str) -> dict[str, Any]:
    """Return the question as the page needs it; `kind` is what `kind_of` returns."""
    texts = [inline_html(text) for text in kind.get("texts", [])]
    return {"id": prediction_id, "html": inline_html(question), "unit": unit, **kind, "texts": texts}


class Prediction(anywidget.AnyWidget):
    """The widget of one prediction. `guess` comes from the browser; `said` is what `reveal` made of it.

    `kept` says to the page that the guess, or that there will be none, has arrived here.
    """

    _esm = source("parts.js", "predict.js")
    _css = source("theme.css", "parts.css", "predict.css")

    asked = traitlets.Dict().tag(sync=True)
    guess = traitlets.Any(None, allow_none=True).tag(sync=True)  # a number, an option's place, places or values
    skipped = traitlets.Bool(False).tag(sync=True)
    kept = traitlets.Bool(False).tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)
    notice = traitlets.Unicode().tag(sync=True)

    def __init__(self, prediction_id: str, question: str, kind: dict[str, Any], unit: str) -> None:
        self.id = prediction_id
        self._question, self._kind, self._unit = question, kind, unit
        self._noted = ""
        _asked[prediction_id] = self
        guess = self._stored()
        super().__init__(asked=asked_of(prediction_id, question, kind, unit), guess=guess, kept=guess is not None)
        self.observe(self._keep, ["guess", "skipped"])

    @traitlets.validate("guess")
    def _possible(self, proposal: dict[str, Any]) -> Any:
        if proposal["value"] is not None and not self._fits(proposal["value"]):
            raise traitlets.TraitError(f"{self.id} cannot be guessed as {proposal['value']!r}")
        return proposal["value"]

    def _fits(self, guess: Any) -> bool:
        kind = self._kind
        numbers = guess if isinstance(guess, list) else [guess]
        if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
            return False
        if kind["kind"] == "choice":
            return guess in range(len(kind["texts"]))
        if kind["kind"] == "ranking":
            return sorted(numbers) == list(range(len(kind["texts"])))
        if not all(kind["low"] <= one <= kind["high"] for one in numbers):
            return False
        return (
            isinstance(guess, list) and len(guess) == len(kind["x"]) if kind["kind"] == "curve" else guess is numbers[0]
        )

    def _stored(self) -> Any:
        """Return the last guess of an earlier day, if it still fits the question."""
        events = progress.events(self.id, "guess")
        guess = json.loads(events[-1].detail).get("guess") if events else None
        return guess if guess is not None and self._fits(guess) else None

    def _keep(self, change: dict[str, Any]) -> None:
        if change["name"] == "guess" and change["new"] is not None:
            self.notice = progress.record(self.id, "guess", "shown", json.dumps({"guess": change["new"]}))
        self.kept = self.guess is not None or self.skipped

    def reveal(self, measured: Any) -> Card:
        """Compare, tell the widget, and note guess and measurement once with the progress."""
        truth, words = self._truth(measured)
        if self.guess is None:
            return Card("note", f"No guess here: it is {words}.")
        error = self._error(truth)
        close = error <= (CLOSE - 1 if self._kind["kind"] in ("number", "curve") else 0)
        outcome = "correct" if close else "incorrect"
        self.said = f"You said {self._in_words(self.guess)}; it is {words}."
        detail = json.dumps({"guess": self.guess, "measured": truth, "error": error})
        if detail != self._noted:
            self.notice = progress.record(self.id, "guess", outcome, detail)
            self._noted = detail
        return Card(outcome, self.said)

    def _truth(self, measured: Any) -> tuple[Any, str]:
        """Return what was measured, as `guess` is, and in words."""
        kind = self._kind["kind"]
        if kind == "number":
            if not isinstance(measured, Fact):
                raise ValueError(f"{self.id}: reveal a number as fact(…), got {measured!r}")
            if not measured.holds:
                raise ClaimError(f"this does not hold: {self.id}: {measured.words}")
            return measured.value, f"{measured}{self._unit}"
        if kind == "curve":
            values = [float(value) for value in measured]
            return values, ", ".join(number(Measured(value)) for value in values)
        texts = self._kind["texts"]
        chosen = [measured] if kind == "choice" else list(measured)
        if unknown := [text for text in chosen if text not in texts]:
            raise ValueError(f"{self.id}: {unknown[0]!r} is not among {', '.join(map(repr, texts))}")
        places = [texts.index(text) for text in chosen]
        return (places[0] if kind == "choice" else places), self._in_words(places[0] if kind == "choice" else places)

    def _in_words(self, guess: Any) -> str:
        kind = self._kind["kind"]
        if kind == "number":
            return f"{number(guess)}{self._unit}"
        if kind == "curve":
            return ", ".join(number(value) for value in guess)
        texts = self._kind["texts"]
        return f"“{texts[guess]}”" if kind == "choice" else ", ".join(texts[place] for place in guess)

    def _error(self, truth: Any) -> float:
        """0 for the same choice or order, else 1; for numbers how many times too large or small, less one."""
        if self._kind["kind"] in ("choice", "ranking"):
            return float(self.guess != truth)
        pairs = zip(truth, self.guess, strict=True) if isinstance(truth, list) else [(truth, self.guess)]
        return max(_times_off(*pair) for pair in pairs)

    def __repr__(self) -> str:
        lines = [f"  - {text}" for text in self._kind.get("texts", [])]
        return "\n".join([f"Predict {self.id}: {self._question}", *lines])

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            items = "".join(f"<li>{text}</li>" for text in self.asked["texts"])
            question = f"<p><strong>Predict:</strong> {self.asked['html']}</p>"
            bundle[0]["text/plain"] = repr(self)
            bundle[0]["text/html"] = f"{UNSEEN}<div>{question}{f'<ul>{items}</ul>' if items else ''}</div>"
        return bundle


def _times_off(measured: float, guess: float) -> float:
    """How far `guess` is off: 1 for twice or half as much; the difference over `measured` where one is not positive."""
    if measured > 0 and guess > 0:
        return max(measured / guess, guess / measured) - 1
    return abs(measured - guess) / (abs(measured) or 1)
