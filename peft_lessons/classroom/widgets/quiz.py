"""Quizzes: a question with radio buttons, graded in the kernel.

The browser receives the question and its options; the key and the feedback stay in Python until an answer is sent.
(The markdown form, for GitHub and untrusted notebooks, folds every answer behind a `<details>`.) Each quiz answers
itself on construction, so a wrong key or a swapped feedback stops the notebook instead of misleading a student.
"""

import json
import math
from typing import Any

import anywidget
import traitlets
from IPython.display import display

from peft_lessons.classroom import progress
from peft_lessons.classroom.output.cards import inline_html
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.lessons.questions import Option, Question, load_question, question_ids

_EVIDENT: set[str] = set()  # the questions whose key a cell of this kernel has confirmed


def evidence(question_id: str, holds: Any) -> None:
    """Say whether what the lesson computed makes the marked option of this question true, before it is asked.

    `holds` is a bool, or a tensor or array of one bool, as in `evidence("03-start", first_A == 0)`. ValueError when it
    contradicts the key, when the question asks for no evidence, and when there is no such question.
    """
    question = load_question(question_id)
    _EVIDENT.discard(question_id)
    marked = _marked(question)
    if marked is None:
        raise ValueError(f"{question_id} asks for no evidence: none of its options is marked with evidence = true")
    one = math.prod(getattr(holds, "shape", ())) == 1
    computed = holds.item() if one and hasattr(holds, "item") else holds
    if not isinstance(computed, bool):
        raise ValueError(f"{question_id}: evidence must be True or False, got {holds!r}")
    if computed != marked.correct:
        raise ValueError(
            f"{question_id}: the lesson computed that option {marked.letter} is {computed}, "
            f"but the key says {marked.correct}"
        )
    _EVIDENT.add(question_id)


def quiz(question_id: str) -> None:
    """Display the question with this id, such as "01-goal".

    ValueError when it asks for evidence and no cell of this kernel has given it, or when there is no such question.
    """
    question = load_question(question_id)
    if _marked(question) and question_id not in _EVIDENT:
        raise ValueError(
            f"{question_id} asks about something that a cell above computes: run the cells above first. "
            f'(One of them calls evidence("{question_id}", …).)'
        )
    display(Quiz(question))


def _marked(question: Question) -> Option | None:
    return next((option for option in question.options if option.evidence), None)


class Quiz(anywidget.AnyWidget):
    """The widget of one question. `answer` comes from the browser, `result` is the verdict that goes back."""

    kind = "quiz"  # of the events that it records

    _esm = source("parts.js", "quiz.js")
    _css = source("theme.css", "parts.css", "quiz.css")

    question = traitlets.Dict().tag(sync=True)
    answer = traitlets.Unicode().tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(self, question: Question) -> None:
        self._question = question
        self._recording = False
        self._self_tested = 0
        self._answered: dict[str, int] = {}
        options = [{"letter": option.letter, "html": inline_html(option.text)} for option in question.options]
        super().__init__(question={"id": question.id, "html": inline_html(question.text), "options": options})

    def open(self) -> None:
        """Test and restore before the browser hears of the widget, so that it starts with the right state."""
        self._self_test()
        self._restore()
        self._recording = True
        super().open()

    @traitlets.validate("answer")
    def _known_option(self, proposal: dict[str, Any]) -> str:
        letters = [option.letter for option in self._question.options]
        if proposal["value"] not in ["", *letters]:
            raise traitlets.TraitError(f"{self._question.id} has the options {letters}, not {proposal['value']!r}")
        return proposal["value"]

    @traitlets.observe("answer")
    def _grade(self, change: dict[str, Any]) -> None:
        letter = change["new"]
        if not letter:
            self.result = {}
            return
        correct = letter == self._question.key
        notice = ""
        if self._recording:
            outcome = "correct" if correct else "incorrect"
            notice = progress.record(self._question.id, self.kind, outcome, json.dumps(self._detail(letter)))
            if correct:
                self._count(progress.events(kind=self.kind))
        # A wrong answer gets its own feedback, which gives nothing else away; the right one opens them all.
        shown = self._question.options if correct else [self._option(letter)]
        self.result = {
            "answer": letter,
            "correct": correct,
            "feedback": {option.letter: inline_html(option.feedback) for option in shown},
            "notice": notice,
            "answered": self._answered if correct else {},
        }

    def _detail(self, letter: str) -> dict[str, str]:
        """Return what an event must hold to be taken up again."""
        return {"answer": letter, "digest": self._question.digest}

    def _count(self, stored: list[progress.Event]) -> None:
        self._answered = progress.counted(stored, "quiz", question_ids(self._question.id[:2]))

    def _option(self, letter: str) -> Any:
        return next(option for option in self._question.options if option.letter == letter)

    def _self_test(self) -> None:
        """Answer with every option as the browser would, and compare verdict and feedback with the question's."""
        for option in self._question.options:
            self.set_state({"answer": option.letter})
            if self.result.get("correct") is not option.correct:
                raise RuntimeError(f"{self._question.id}: option {option.letter} was graded {self.result}")
            if self.result["feedback"][option.letter] != inline_html(option.feedback):
                raise RuntimeError(f"{self._question.id}: option {option.letter} was given another option's feedback")
            self._self_tested += 1
        self.set_state({"answer": ""})

    def _restore(self) -> None:
        """Take up the last answer to this very question, if the store has one."""
        stored = progress.events(kind=self.kind)
        self._count(stored)
        detail = self._last([event for event in stored if event.item == self._question.id])
        if detail.get("digest") == self._question.digest:
            self.answer = detail["answer"]

    def _last(self, own: list[progress.Event]) -> dict[str, str]:
        return json.loads(own[-1].detail) if own else {}

    def __repr__(self) -> str:
        question = self._question
        lines = [f"  {option.letter}) {option.text}" for option in question.options]
        computed = " · key checked by what the lesson computed" if _marked(question) else ""
        total = len(question.options)
        return "\n".join(
            [
                f"Quiz {question.id}: {question.text}",
                *lines,
                f"  digest {question.digest} · self-test {self._self_tested} of {total} options{computed}",
            ]
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle[0]["text/plain"] = repr(self)
            bundle[0]["text/markdown"] = _folded(self._question)
        return bundle


def _folded(question: Question) -> str:
    """Return the question as markdown whose answers unfold: one HTML block, lest markdown change signs in texts."""
    lines = [f"<div><p><strong>Quiz.</strong> {inline_html(question.text)}</p>"]
    for option in question.options:
        verdict = "✔ Correct." if option.correct else "✘ Not this one."
        lines += [
            f"<details><summary>{option.letter}) {inline_html(option.text)}</summary>",
            f"<p>{verdict} {inline_html(option.feedback)}</p></details>",
        ]
    return "\n".join([*lines, "</div>"])
