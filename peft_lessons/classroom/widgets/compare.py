"""One question, several answers side by side: a model with its adapter off and on, or in 8, 4 and 2 bits."""

import html
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import anywidget
import traitlets

from peft_lessons.classroom.widgets.parts import source
from peft_lessons.models.chat import listening

Rows = list[list[str]]  # [name, text] pairs

LONGEST = 500  # characters of a question: a model on a laptop reads about a page a second


class Superseded(BaseException):
    """Ends an answer that nobody waits for any more. No Exception, which a lesson's own function might catch."""


class Compare(anywidget.AnyWidget):
    """The widget that `compare` returns. `asked` comes from the browser, `answer` goes back, and both carry a number.

    The number makes each question and each answer a new value, which the other side hears of even when its text is as
    before. An answer is sent again and again while it grows. It is made in a thread of its own, since one that began
    where the question arrived would keep a stop, or the next question, from being heard.
    """

    _esm = source("parts.js", "compare.js")
    _css = source("theme.css", "parts.css", "compare.css")
    _model = threading.Lock()  # models are shared, and a switched-off adapter is off for all: one answer at a time

    asked = traitlets.Dict().tag(sync=True)  # number, question; stop: true ends its answer
    answer = traitlets.Dict().tag(sync=True)  # number, question, rows [name, text], done
    label = traitlets.Unicode().tag(sync=True)
    suggestions = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self, answer: Callable[[str], Mapping[str, str]], question: str, label: str, suggestions: Sequence[str]
    ) -> None:
        self._answer = answer
        self._names: list[str] = []
        self._sending = threading.RLock()
        with self._model:
            self._first = question, self._rows(question, lambda rows: None)
        shown = {"number": 0, "question": question, "rows": self._first[1], "done": True}
        asked = {"number": 0, "question": question}
        super().__init__(asked=asked, answer=shown, label=label, suggestions=list(suggestions))
        self.observe(lambda change: self._reply(**change["new"]), "asked")

    def _reply(self, number: int, question: str, stop: bool = False) -> None:
        question = question.strip()[:LONGEST]
        with suppress(Superseded):  # it may have ended while the stop was on its way
            if stop or not question:
                rows = self.answer["rows"] if self.answer["number"] == number else []
                self._say(number, question, rows, done=True)
            else:
                self._say(number, question, [])  # at once, so that the browser knows that the kernel lives
                threading.Thread(target=self._think, args=(number, question), daemon=True).start()

    def _think(self, number: int, question: str) -> None:
        with suppress(Superseded):
            with self._model:
                self._still_wanted(number)
                rows = self._rows(question, lambda rows: self._say(number, question, rows))
            self._say(number, question, rows, done=True)

    def _say(self, number: int, question: str, rows: Rows, done: bool = False) -> None:
        with self._sending:
            self._still_wanted(number)
            self.answer = {"number": number, "question": question, "rows": rows, "done": done}

    def _still_wanted(self, number: int) -> None:
        """Raise Superseded if a later question was asked, or this one's answer was stopped."""
        ended = self.answer["number"] == number and self.answer["done"]
        if number != self.asked["number"] or ended:
            raise Superseded

    def _rows(self, question: str, send: Callable[[Rows], None]) -> Rows:
        """Return the names and texts of all answers; `send` gets those before they are complete."""
        growing: Rows = []

        def listen(text: str) -> None:
            if not text:  # one more answer begins; it will probably be called as the last time
                growing.append([self._names[len(growing)] if len(growing) < len(self._names) else "…", text])
            growing[-1][1] = text
            send([list(row) for row in growing])

        try:
            with listening(listen):
                rows = [[name, text.strip()] for name, text in self._answer(question).items()]
        except Exception as error:  # shown in the widget: an error in a thread would vanish in the log
            return [["error", f"{type(error).__name__}: {error}"]]
        self._names = [name for name, _ in rows]
        return rows

    def all_it_shows(self) -> dict[str, Any]:
        """Return the state from which a page without a kernel answers the questions that it suggests."""
        first, rows = self._first
        with self._model:
            answers = {first: rows} | {asked: self._rows(asked, lambda rows: None) for asked in self.suggestions}
        return {"label": self.label, "suggestions": list(answers), "answers": answers}

    def __repr__(self) -> str:
        question, answers = self._first
        return "\n".join([f"{self.label}: {question}", *(f"  {name}: {text}" for name, text in answers)])

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_() or ({}, {})
        question, answers = self._first
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td style="text-align: left">{html.escape(text)}</td></tr>'
            for name, text in answers
        )
        table = f"<table><caption>{html.escape(self.label)}: {html.escape(question)}</caption>{rows}</table>"
        return {**data, "text/plain": repr(self), "text/html": table}, metadata


def compare(
    answer: Callable[[str], Mapping[str, str]], *, question: str, label: str = "Ask", suggestions: Sequence[str] = ()
) -> Compare:
    """Build a field for a question and the answers to it; a cell shows it when this is its last expression.

    Args:
        answer: called in the kernel as `answer(question)`; returns a text for each name, such as
            {"adapter off": …, "adapter on": …}: two names that end so get a switch. An exception is shown in the place
            of the answers. It runs in a thread beside the notebook's cells.
        question: what is asked at the start; its answers are what a stored notebook shows.
        label: what the field is called.
        suggestions: more questions, to click.

    Raises:
        ValueError: the question or a suggestion is empty.
    """
    if not question.strip():
        raise ValueError("compare() needs a question to start with, so that a stored notebook shows an example")
    if isinstance(suggestions, str) or not all(isinstance(each, str) and each.strip() for each in suggestions):
        raise ValueError(f"suggestions is {suggestions!r}; it must be a list of questions")
    return Compare(answer, question, label, suggestions)
