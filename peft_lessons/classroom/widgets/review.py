"""Questions that once went wrong come back at the end of a later lesson, up to three at a time.

They wait in a queue, which the store of events determines: a wrong answer puts a question into it; a review in which it
is right at the first try takes it out; one in which it is not sends it to the end. So a question comes back in lesson
after lesson until it is known, and others have their turn in between. An answer in a review is an event of the kind
"review" and counts for nothing else.
"""

import json
from collections.abc import Iterable
from typing import Any

import ipywidgets
from IPython.display import display

from peft_lessons.classroom import progress
from peft_lessons.classroom.widgets.quiz import Quiz
from peft_lessons.lessons.catalogue import find_lesson, lessons
from peft_lessons.lessons.questions import Question, load_question, question_ids

MOST = 3
STORED = "Review: up to three questions of earlier lessons that you answered wrongly come back here."


def review(lesson: str) -> None:
    """Display the questions that come back in this lesson, such as "05". ValueError when there is no such lesson."""
    display(Review(find_lesson(lesson).number))


def due(lesson: str, events: Iterable[progress.Event]) -> list[str]:
    """List the ids of the questions that come back in `lesson`, in order; once one is answered, they stay the same."""
    earlier = {which for known in lessons() if known.number < lesson for which in question_ids(known.number)}
    waiting: dict[str, None] = {}
    tried = set()
    for event in events:
        if event.item not in earlier:
            continue
        if event.kind == "quiz" and event.outcome == "incorrect":
            waiting.setdefault(event.item)
        if event.kind == "review":
            there = json.loads(event.detail)["lesson"]
            if there == lesson:
                break
            if (event.item, there) not in tried:
                tried.add((event.item, there))
                waiting.pop(event.item, None)
                if event.outcome == "incorrect":
                    waiting[event.item] = None
    return list(waiting)[:MOST]


class Reviewed(Quiz):
    """A question that comes back in `lesson`."""

    kind = "review"

    def __init__(self, question: Question, lesson: str) -> None:
        self._lesson = lesson
        super().__init__(question)

    def _detail(self, letter: str) -> dict[str, str]:
        return super()._detail(letter) | {"lesson": self._lesson}

    def _last(self, stored: list[progress.Event]) -> dict[str, str]:
        return super()._last([event for event in stored if json.loads(event.detail)["lesson"] == self._lesson])

    def _count(self, stored: list[progress.Event]) -> None:
        """Do nothing: a review counts for no lesson."""


class Review(ipywidgets.VBox):
    """The questions of a review below each other. What is stored of it knows no learner, hence not which they are."""

    def __init__(self, lesson: str) -> None:
        questions = [load_question(which) for which in due(lesson, progress.events())]
        one = len(questions) == 1
        said = (
            f"Once more: {'a question' if one else f'{len(questions)} questions'} of earlier lessons that went wrong."
        )
        nothing = "Nothing to review: no question of an earlier lesson is waiting for you."
        line = ipywidgets.HTML(said if questions else nothing)
        quizzes = [Reviewed(question, lesson) for question in questions]
        super().__init__(children=[line, *quizzes], layout={"row_gap": "12px"})
        self.add_class("peft-review")

    def __repr__(self) -> str:
        return STORED

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        return bundle and bundle | {"text/plain": STORED, "text/markdown": STORED}
