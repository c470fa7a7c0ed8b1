"""Whatever asks the kernel for an answer says when none comes: quiz, exercise and certificate."""

from javascript import run_node_tests

from peft_lessons.classroom import exercise, progress
from peft_lessons.classroom.widgets.exercise_card import ExerciseCard
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.classroom.widgets.quiz import Quiz
from peft_lessons.lessons.questions import load_question


def test_what_asks_says_when_no_answer_comes(tmp_path):
    question = load_question("01-goal")
    quiz = {
        "name": "quiz",
        "script": source("parts.js", "quiz.js"),
        "state": {name: getattr(Quiz(question), name) for name in ("question", "answer", "result")},
        "fill": [["input[value=b]", None]],
        "click": "button[type=submit]",
        "answer": ["result", {"answer": "b", "correct": False, "feedback": {"b": "No."}}],
    }
    task = exercise("03-merge")
    card = ExerciseCard(task, None, task.judged(...), "merged_weight")
    names = ("exercise", "verdict", "hints", "hints_in_all", "solution", "notice", "asked", "heard", "answered")
    check = {
        "name": "exercise",
        "script": source("parts.js", "exercise_card.js"),
        "state": {name: getattr(card, name) for name in names},
        "fill": [],
        "click": "button",
        "answer": ["heard", 1],
    }
    rows = [
        {**row, **{kind: {**row[kind], "done": row[kind]["total"]} for kind in ("quiz", "exercise")}}
        for row in progress.lesson_progress()
    ]
    certificate = {
        "name": "certificate",
        "script": source("parts.js", "progress.js"),
        "state": {"rows": rows, "guesses": {}, "certificate": {}},
        "fill": [["form input", "Ada"]],
        "click": "form button",
        "answer": ["certificate", {"said": "Written."}],
    }
    run_node_tests("lost.test.js", [quiz, check, certificate], tmp_path)
