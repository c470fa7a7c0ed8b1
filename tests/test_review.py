"""Reviews: which questions come back and when, what an answer there counts for, and what is stored."""

import json

import pytest

from peft_lessons.classroom import progress
from peft_lessons.classroom.progress import Event, submission
from peft_lessons.classroom.widgets.review import STORED, Review, due, review
from peft_lessons.lessons.questions import load_question, question_ids

A, B, C, D = [*question_ids("01")[:2], *question_ids("02")[:2]]


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))


def tried(item: str, right: bool, lesson: str = "") -> Event:
    """A try at a question where it is asked first, or in the review of `lesson`."""
    outcome = "correct" if right else "incorrect"
    detail = {"answer": "a", "digest": ""} | ({"lesson": lesson} if lesson else {})
    return Event("", item[:2], item, "review" if lesson else "quiz", outcome, json.dumps(detail))


WRONG = [tried(item, False) for item in (A, B, C, D)]


def test_what_was_never_wrong_does_not_come_back():
    assert due("03", []) == due("03", [tried(A, True)]) == []


def test_what_was_wrong_once_comes_back_in_later_lessons_alone():
    events = [tried(A, False), tried(A, True), tried(C, False)]
    assert due("00", events) == due("01", events) == []
    assert due("02", events) == [A]
    assert due("03", events) == due("12", events) == [A, C]


def test_at_most_three_come_in_the_order_in_which_they_went_wrong():
    assert due("05", WRONG) == [A, B, C]


def test_right_at_the_first_try_in_a_review_is_enough():
    events = [*WRONG, tried(A, True, "03")]
    assert due("04", events) == [B, C, D]
    assert due("04", [*events, tried(A, False)]) == [B, C, D], "wrong again, it waits at the end"
    assert due("04", [tried(A, False), tried(A, True, "03"), tried(A, False)]) == [A]


def test_right_at_the_second_try_is_not_and_others_have_their_turn():
    events = [*WRONG, tried(A, False, "03"), tried(A, True, "03")]
    assert due("04", events) == [B, C, D]
    assert due("05", [*events, *(tried(item, True, "04") for item in (B, C, D))]) == [A]


def test_a_review_has_the_same_questions_when_its_cell_is_run_again():
    events = [*WRONG, tried(A, True, "04"), tried(B, False, "04")]
    assert due("04", events) == [A, B, C]
    assert due("05", events) == [C, D, B]


def test_a_question_that_the_course_no_longer_has_does_not_come_back():
    assert due("03", [tried("01-removed-since", False)]) == []


def quizzes(lesson: str) -> list:
    return list(Review(lesson).children[1:])


def test_an_answer_is_an_event_of_its_own_kind_and_counts_for_nothing_else():
    progress.record(A, "quiz", "incorrect", tried(A, False).detail)
    before = progress.lesson_progress(), submission.items()
    (quiz,) = quizzes("03")
    key = load_question(A).key
    quiz.set_state({"answer": key})
    assert quiz.result["correct"] and quiz.result["answered"] == {}
    event = progress.events()[-1]
    assert (event.lesson, event.item, event.kind, event.outcome) == ("01", A, "review", "correct")
    assert (progress.lesson_progress(), submission.items()) == before
    (again,) = quizzes("03")
    assert again.answer == key, "the cell is run again: the answer is still there"
    assert quizzes("04") == []


def test_an_answer_in_another_review_is_not_taken_up():
    progress.record(A, "quiz", "incorrect", tried(A, False).detail)
    wrong = next(option.letter for option in load_question(A).options if not option.correct)
    quizzes("03")[0].set_state({"answer": wrong})
    assert quizzes("03")[0].answer == wrong and quizzes("04")[0].answer == ""


def test_a_question_whose_key_a_lesson_computes_needs_no_lesson_to_come_back():
    computed = "02-frozen-state"
    assert any(option.evidence for option in load_question(computed).options)
    progress.record(computed, "quiz", "incorrect", tried(computed, False).detail)
    assert [quiz.question["id"] for quiz in quizzes("03")] == [computed]


def test_what_is_stored_is_the_same_for_everybody():
    fresh = Review("03")
    assert "Nothing to review" in fresh.children[0].value and len(fresh.children) == 1
    for item in (A, B):
        progress.record(item, "quiz", "incorrect", tried(item, False).detail)
    waiting = Review("03")
    assert "2 questions of earlier lessons" in waiting.children[0].value
    for each in (fresh, waiting):
        bundle = each._repr_mimebundle_()
        assert repr(each) == bundle["text/plain"] == bundle["text/markdown"] == STORED
        assert len(bundle) == 3


def test_an_unknown_lesson_is_told_what_there_is():
    with pytest.raises(ValueError, match=r"there is no lesson '77'; there is\n  00  Start here"):
        review("77")
