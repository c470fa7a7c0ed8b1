"""Quizzes: a question with radio buttons, graded in the kernel.

The browser receives the question and its options; the key and the feedback stay in Python until an answer is sent.
(The markdown form, for GitHub and untrusted notebooks, folds every answer behind a `<details>`.) Each quiz answers
itself on construction, so a wrong key or a swapped feedback stops the notebook instead of misleading a student.
"""

import json
import math
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import display

from peft_lessons.classroom import progress
from peft_lessons.classroom.output.cards import inline_html
from peft_lessons.lessons.questions import Question, load_question

HERE = Path(__file__).parent


def quiz(question_id: str, evidence: Any = None) -> None:
    """Display the question with this id, such as "01-goal".

    A question may mark one option whose truth the lesson computes: `evidence` is what was computed, a bool or a tensor
    or array of one bool, as in `evidence=measured == 2`. The call does not say which option that is, so the source of a
    lesson gives no key away. ValueError when the evidence contradicts the key, is missing where the question asks for
    it, or is given where it does not.
    """
    question = load_question(question_id)
    _check_evidence(question, evidence)
    display(Quiz(question))


class Quiz(anywidget.AnyWidget):
    """The widget of one question. `answer` comes from the browser, `result` is the verdict that goes back."""

    _esm = HERE / "quiz.js"
    _css = (HERE / "theme.css").read_text(encoding="utf-8") + (HERE / "quiz.css").read_text(encoding="utf-8")

    question = traitlets.Dict().tag(sync=True)
    answer = traitlets.Unicode().tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(self, question: Question) -> None:
        self._question = question
        self._recording = False
        self._self_tested = 0
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
            detail = json.dumps({"answer": letter, "digest": self._question.digest})
            outcome = "correct" if correct else "incorrect"
            notice = progress.record(self._question.id, "quiz", outcome, detail)
        # A wrong answer gets its own feedback, which gives nothing else away; the right one opens them all.
        shown = self._question.options if correct else [self._option(letter)]
        self.result = {
            "answer": letter,
            "correct": correct,
            "feedback": {option.letter: inline_html(option.feedback) for option in shown},
            "notice": notice,
        }

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
        stored = progress.events(self._question.id, "quiz")
        detail = json.loads(stored[-1].detail) if stored else {}
        if detail.get("digest") == self._question.digest:
            self.answer = detail["answer"]

    def __repr__(self) -> str:
        question = self._question
        lines = [f"  {option.letter}) {option.text}" for option in question.options]
        computed = " · key checked by what the lesson computed" if any(o.evidence for o in question.options) else ""
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
    """The question as markdown whose answers unfold. One HTML block, so that markdown leaves signs in texts alone."""
    lines = [f"<div><p><strong>Quiz.</strong> {inline_html(question.text)}</p>"]
    for option in question.options:
        verdict = "✔ Correct." if option.correct else "✘ Not this one."
        lines += [
            f"<details><summary>{option.letter}) {inline_html(option.text)}</summary>",
            f"<p>{verdict} {inline_html(option.feedback)}</p></details>",
        ]
    return "\n".join([*lines, "</div>"])


def _check_evidence(question: Question, evidence: Any) -> None:
    marked = next((option for option in question.options if option.evidence), None)
    if marked is None:
        if evidence is not None:
            raise ValueError(f"{question.id} asks for no evidence, got evidence={evidence!r}")
        return
    if evidence is None:
        raise ValueError(f"{question.id} asks for evidence: pass evidence= what the lesson computed, True or False")
    one = math.prod(getattr(evidence, "shape", ())) == 1
    computed = evidence.item() if one and hasattr(evidence, "item") else evidence
    if not isinstance(computed, bool):
        raise ValueError(f"{question.id}: evidence must be True or False, got {evidence!r}")
    if computed != marked.correct:
        raise ValueError(
            f"{question.id}: the lesson computed that option {marked.letter} is {computed}, "
            f"but the key says {marked.correct}"
        )
