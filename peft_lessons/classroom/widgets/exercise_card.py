"""The card below a student's cell: the verdict, and buttons to check again, for a hint, and for our solution.

It looks at what was *run*: whenever a cell has run and the name that the exercise asks for stands for something new,
the card checks it. The Check button first runs the student's cell, where the page can (page.js).
"""

import threading
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets
from IPython.core.getipython import get_ipython

from peft_lessons.classroom.output.cards import Card, inline_html, link_arxiv
from peft_lessons.classroom.widgets.parts import source

if TYPE_CHECKING:
    from peft_lessons.classroom.exercises.exercise import Exercise


_latest: dict[str, "ExerciseCard"] = {}  # by exercise: one attempt is to be noted once


class ExerciseCard(anywidget.AnyWidget):
    """The widget that `Exercise.check` shows. `asked` comes from the browser, all else goes there."""

    _esm = source("parts.js", "exercise_card.js")
    _css = source("theme.css", "parts.css", "exercise_card.css")

    exercise = traitlets.Unicode().tag(sync=True)  # its id
    verdict = traitlets.Dict().tag(sync=True)  # outcome, html
    hints = traitlets.List(traitlets.Unicode()).tag(sync=True)  # those that were asked for, as html
    hints_in_all = traitlets.Int().tag(sync=True)
    solution = traitlets.Unicode().tag(sync=True)  # as html, once it was asked for
    notice = traitlets.Unicode().tag(sync=True)
    asked = traitlets.Dict().tag(sync=True)  # number, what: "check", "hint" or "solution"
    heard = traitlets.Int().tag(sync=True)  # the number of what is being answered
    answered = traitlets.Int().tag(sync=True)  # the number of what was answered last, if with the same words as before

    def __init__(self, exercise: "Exercise", student: Any, card: Card, name: str) -> None:
        self._exercise, self._judged, self._card, self._name = exercise, student, card, name
        self._one_at_a_time = threading.Lock()  # a click arrives while a cell runs
        super().__init__(exercise=exercise.id, verdict=_shown(card), hints_in_all=exercise.hints_in_all)
        self.observe(lambda change: self._answer(**change["new"]), "asked")
        _latest[exercise.id] = self
        shell = get_ipython()
        if shell is not None:
            shell.events.register("post_run_cell", self._look_again)

    def _look_again(self, _result: object = None) -> None:
        """Check what the name stands for, if that is not what was checked before and no newer card does it."""
        found = self._found()
        if found is not self._judged and _latest[self.exercise] is self:
            self._judge(found)

    def _found(self) -> Any:
        """Return what the name that the exercise asks for stands for now."""
        shell = get_ipython()
        return shell.user_ns.get(self._name, self._judged) if shell is not None else self._judged

    def _judge(self, student: Any) -> None:
        with self._one_at_a_time:
            self._judged = student
            self.verdict = _shown(self._exercise.judged(student))

    def _answer(self, number: int, what: str) -> None:
        self.heard = number
        if what == "check":
            self._judge(self._found())
        elif what == "hint":
            text, self.notice = self._exercise.next_hint()
            if len(self.hints) < self.hints_in_all:
                self.hints = [*self.hints, inline_html(text)]
        elif what == "solution":
            source, self.notice = self._exercise.our_solution()
            self.solution = source._repr_html_()
        self.answered = number

    def __repr__(self) -> str:
        return repr(self._card)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle[0]["text/plain"] = repr(self._card)
            bundle[0]["text/html"] = self._card._repr_html_()
        return bundle


def _shown(card: Card) -> dict[str, str]:
    lines = "".join(f"<p>{link_arxiv(inline_html(line))}</p>" for line in card.lines)
    return {"outcome": card.outcome, "title": inline_html(card.title), "html": lines}
