"""One question, several answers side by side: a model with its adapter off and on, or in 8, 4 and 2 bits."""

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

HERE = Path(__file__).parent
LONGEST = 500  # characters of a question: a model on a laptop reads about a page a second


class Compare(anywidget.AnyWidget):
    """The widget that `compare` returns. `question` comes from the browser, `answers` go back."""

    _esm = HERE / "compare.js"
    _css = (HERE / "theme.css").read_text(encoding="utf-8") + (HERE / "compare.css").read_text(encoding="utf-8")

    question = traitlets.Unicode().tag(sync=True)
    answers: traitlets.List[Any] = traitlets.List().tag(sync=True)  # [name, text] pairs
    label = traitlets.Unicode().tag(sync=True)

    def __init__(self, answer: Callable[[str], Mapping[str, str]], question: str, label: str) -> None:
        self._answer = answer
        super().__init__(question=question, label=label)
        self._first = question, self._ask(question)
        self.answers = self._first[1]
        self.observe(lambda change: self.set_trait("answers", self._ask(change["new"])), "question")

    @traitlets.validate("question")
    def _short_enough(self, proposal: dict[str, Any]) -> str:
        return proposal["value"].strip()[:LONGEST]

    def _ask(self, question: str) -> list[list[str]]:
        if not question:
            return []
        try:
            return [[name, text.strip()] for name, text in self._answer(question).items()]
        except Exception as error:  # shown in the widget: an error in a callback would vanish in the log
            return [["error", f"{type(error).__name__}: {error}"]]

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
