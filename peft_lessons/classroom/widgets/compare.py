"""One question, several answers side by side: a model with its adapter off and on, or in 8, 4 and 2 bits."""

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from peft_lessons.models.chat import listening

HERE = Path(__file__).parent
Rows = list[list[str]]  # [name, text] pairs

LONGEST = 500  # characters of a question: a model on a laptop reads about a page a second


class Compare(anywidget.AnyWidget):
    """The widget that `compare` returns. `asked` comes from the browser, `answer` goes back, and both carry a number.

    The number makes each question and each answer a new value, which the other side hears of even when its text is as
    before. An answer is sent again and again while it grows.
    """

    _esm = HERE / "compare.js"
    _css = (HERE / "theme.css").read_text(encoding="utf-8") + (HERE / "compare.css").read_text(encoding="utf-8")

    asked = traitlets.Dict().tag(sync=True)  # number, question
    answer = traitlets.Dict().tag(sync=True)  # number, question, rows [name, text], done
    label = traitlets.Unicode().tag(sync=True)

    def __init__(self, answer: Callable[[str], Mapping[str, str]], question: str, label: str) -> None:
        self._answer = answer
        self._names: list[str] = []
        self._first = question, self._rows(question, lambda rows: None)
        shown = {"number": 0, "question": question, "rows": self._first[1], "done": True}
        super().__init__(asked={"number": 0, "question": question}, answer=shown, label=label)
        self.observe(lambda change: self._reply(**change["new"]), "asked")

    def _reply(self, number: int, question: str) -> None:
        question = question.strip()[:LONGEST]

        def send(rows: Rows, done: bool = False) -> None:
            self.answer = {"number": number, "question": question, "rows": rows, "done": done}

        send(self._rows(question, send) if question else [], done=True)

    def _rows(self, question: str, send: Callable[[Rows], None]) -> Rows:
        """The names and texts of all answers; `send` gets those before they are complete."""
        growing: Rows = []

        def listen(text: str) -> None:
            if not text:  # one more answer begins; it will probably be called as the last time
                growing.append([self._names[len(growing)] if len(growing) < len(self._names) else "…", text])
            growing[-1][1] = text
            send([list(row) for row in growing])

        try:
            with listening(listen):
                rows = [[name, text.strip()] for name, text in self._answer(question).items()]
        except Exception as error:  # shown in the widget: an error in a callback would vanish in the log
            return [["error", f"{type(error).__name__}: {error}"]]
        self._names = [name for name, _ in rows]
        return rows

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


def compare(answer: Callable[[str], Mapping[str, str]], *, question: str, label: str = "Ask") -> Compare:
    """A field for a question and the answers to it; a cell shows it when this is its last expression.

    Args:
        answer: called in the kernel as `answer(question)`; returns a text for each name, such as
            {"adapter off": …, "adapter on": …}. An exception is shown in the place of the answers.
        question: what is asked at the start; its answers are what a stored notebook shows.
        label: what the field is called.

    Raises:
        ValueError: the question is empty.
    """
    if not question.strip():
        raise ValueError("compare() needs a question to start with, so that a stored notebook shows an example")
    return Compare(answer, question, label)
