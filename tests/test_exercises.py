"""Every exercise file keeps its promises; outcomes, hints and messages reach the student, and nothing raises."""

import re

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from peft_lessons.classroom import progress
from peft_lessons.classroom.exercises import (
    Incorrect,
    NotAttempted,
    describe,
    exercise_ids,
    load_exercise,
    require_number,
    require_tensor,
)
from peft_lessons.classroom.exercises.exercise import assess, exercise

IDS = exercise_ids()


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(progress, "_warned", False)


@pytest.fixture
def shell():
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def card(capsys, action, *arguments) -> str:
    assert action(*arguments) is None, "a value would show a second time"
    return capsys.readouterr().out


# Promises of every exercise file


def test_there_are_exercises():
    assert "03-merge" in IDS


@pytest.mark.parametrize("name", IDS)
def test_the_reference_passes(name):
    specification = load_exercise(name)
    assert assess(specification, specification.build(specification.solution)) == ("correct", "All cases agree.")


@pytest.mark.parametrize("name", IDS)
def test_the_starter_is_not_attempted(name):
    specification = load_exercise(name)
    starter = specification.build(specification.starter)
    assert assess(specification, starter)[0] == "not attempted"
    assert assess(specification, specification.build("# my notes\n\n" + specification.starter))[0] == "not attempted"
    assert specification.starter != specification.solution


@pytest.mark.parametrize("name", IDS)
def test_starter_solution_and_wrong_solutions_define_the_same_name(name):
    specification = load_exercise(name)
    sources = [specification.starter, specification.solution, *(source for source, _ in specification.wrong.values())]
    assert len({specification.build(source).__name__ for source in sources}) == 1


@pytest.mark.parametrize("name", IDS)
def test_each_wrong_solution_gets_its_own_message(name):
    specification = load_exercise(name)
    assert len(specification.wrong) >= 3
    messages = {}
    for mistake, (source, phrase) in specification.wrong.items():
        outcome, message = assess(specification, specification.build(source))
        assert outcome == "incorrect", mistake
        assert phrase.lower() in message.lower(), (mistake, message)
        messages[mistake] = message
    assert len(set(messages.values())) == len(messages)


@pytest.mark.parametrize("name", IDS)
def test_hints_task_and_facts_are_there(name):
    specification = load_exercise(name)
    assert len(specification.hints) >= 3 and len(set(specification.hints)) == len(specification.hints)
    assert len(specification.task) > 80 and specification.title and 1 <= specification.minutes <= 30
    assert "\n".join(specification.hints) not in specification.solution


def hostile(kind: str):
    def wrong_arguments():
        return 0

    def raises(*arguments, **options):
        raise ZeroDivisionError("one / zero")

    kinds = {
        "None": lambda *a, **k: None,
        "a string": lambda *a, **k: "tensor",
        "a scalar": lambda *a, **k: torch.tensor(0.0),
        "NaN": lambda weight, *a, **k: torch.full((2, 2), float("nan")),
        "wrong arguments": wrong_arguments,
        "raises": raises,
        "no function": 5,
    }
    return kinds[kind]


@pytest.mark.parametrize("kind", ["None", "a string", "a scalar", "NaN", "wrong arguments", "raises", "no function"])
@pytest.mark.parametrize("name", IDS)
def test_no_student_code_breaks_the_notebook(name, kind, capsys):
    text = card(capsys, exercise(name).check, hostile(kind))
    assert text.startswith(f"✘ Exercise {name}: incorrect\n  ")
    assert len(text.splitlines()[1]) > 20 and "0x" not in text


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("student", [lambda *a, **k: ..., ..., None])
def test_an_ellipsis_is_not_attempted(name, student, capsys):
    assert card(capsys, exercise(name).check, student).startswith(f"○ Exercise {name}: not attempted")


# What a student sees


def test_an_unknown_exercise_lists_what_there_is():
    with pytest.raises(ValueError, match=r"no exercise '03-merg'; there are .*03-merge"):
        exercise("03-merg")


def test_hints_come_one_at_a_time_and_the_last_one_stays(capsys):
    task = exercise("03-merge")
    hints = load_exercise("03-merge").hints
    for number, hint in enumerate(hints, start=1):
        text = card(capsys, task.hint)
        assert f"hint {number} of {len(hints)}" in text and hint in text
        assert ("last hint" in text) is (number == len(hints))
    assert hints[-1] in card(capsys, task.hint)
    assert [event.detail for event in progress.events("03-merge", "hint")] == ["1", "2", "3", "3"]


def test_the_first_hint_is_the_same_in_every_kernel(capsys):
    first = card(capsys, exercise("03-merge").hint)
    assert card(capsys, exercise("03-merge").hint) == first


def test_outcomes_are_recorded(capsys):
    task, specification = exercise("03-merge"), load_exercise("03-merge")
    task.check(specification.build(specification.starter))
    task.check(specification.build(specification.wrong["forgets the scaling"][0]))
    task.check(specification.build(specification.solution))
    task.solution()
    assert [(event.lesson, event.kind, event.outcome) for event in progress.events("03-merge")] == [
        ("03", "exercise", "not attempted"),
        ("03", "exercise", "incorrect"),
        ("03", "exercise", "correct"),
        ("03", "solution", "shown"),
    ]


def test_a_store_that_cannot_be_written_is_said_in_the_card(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "file" / "home"))
    specification = load_exercise("03-merge")
    text = card(capsys, exercise("03-merge").check, specification.build(specification.solution))
    assert text.startswith("✔") and "not being saved" in text


def test_solution_shows_the_source(shell):
    with capture_output() as captured:
        assert exercise("03-merge").solution() is None
    (output,) = captured.outputs
    assert "one solution: 4 lines" in output.data["text/plain"]
    shown = re.sub(r"<style>.*?</style>|<[^>]+>", "", output.data["text/html"])
    assert "delta" in shown and "alpha" in shown


def test_the_task_is_the_value_of_the_cell():
    task = exercise("03-merge")
    assert repr(task) == "Exercise 03-merge: Merge an adapter into its weight (5 minutes)"
    assert "Write `merge(weight, A, B, alpha, rank)`" in task._repr_markdown_()


def test_an_exception_is_shown_with_its_line_and_its_input(capsys):
    def helper(A, B):
        return A @ B.undefined

    def merge(weight, A, B, alpha, rank):
        return weight + helper(A, B)

    text = card(capsys, exercise("03-merge").check, merge)
    assert "AttributeError: 'Tensor' object has no attribute 'undefined'" in text
    assert "in the line `return A @ B.undefined`" in text
    assert "weight = [[0.0, 0.0], [0.0, 0.0]]" in text and "alpha = 2, rank = 2" in text
    assert __file__ not in text


def test_an_exception_in_a_method_is_shown_with_the_methods_input():
    class Layer(torch.nn.Module):
        def __init__(self, size):
            super().__init__()
            self.size = size

        def forward(self, x):
            return x / self.missing

    specification = load_exercise("03-merge")
    tried = type("M", (), {"check": staticmethod(lambda student: student(3)(torch.zeros(2)))})
    object.__setattr__(specification, "module", tried)
    outcome, message = assess(specification, Layer)
    assert outcome == "incorrect"
    assert "no attribute 'missing'" in message
    assert "in the line `return x / self.missing`" in message and "x = [0.0, 0.0]" in message


def test_an_unchanged_class_is_not_attempted():
    starter = "class Layer:\n    def forward(self, x):\n        return x + ...\n"
    specification = load_exercise("03-merge")
    object.__setattr__(specification, "starter", starter)
    assert assess(specification, specification.build("# note\n" + starter))[0] == "not attempted"
    changed = specification.build(starter.replace("x + ...", "x"))
    assert assess(specification, changed)[0] == "incorrect"


def repair(**changed):
    """The message for a LoRA layer that is right but for what is changed."""
    specification = load_exercise("01-repair")
    module = specification.module
    return assess(specification, specification.build(module._WRONG.format(**module._RIGHT | changed)))


def test_the_unchanged_template_of_the_repair_is_right():
    assert repair()[0] == "correct"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base": "base = self.linear(x.detach())"}, "No gradient comes back through the base to the input"),
        ({"base": "base, x = self.linear(x), x.detach()"}, "is something detached?"),
        (
            {"base": "return self.linear(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.detach().T)"},
            "No gradient reaches `lora_B`, so it cannot train",
        ),
        ({"base": "torch.set_grad_enabled(False); base = self.linear(x)"}, "No gradient comes back from the output"),
        ({"wrap": "self.linear = linear"}, "`linear.weight` still trains."),
        ({"A": "torch.randn(linear.in_features, rank)"}, "at rank 2, `lora_A` is (3, 2), not (2, 3)."),
    ],
)
def test_the_repair_must_train_through_base_and_update(changed, message):
    with torch.enable_grad():
        outcome, said = repair(**changed)
    assert outcome == "incorrect" and message in said, said


def test_an_object_is_told_from_its_class():
    specification = load_exercise("01-repair")
    layer = specification.build(specification.solution)(torch.nn.Linear(3, 2), 2, 4)
    assert assess(specification, layer) == ("incorrect", "Pass the class itself, not an object of it.")


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("the levels are not ascending", "The levels are not ascending."),
        ("`linear.weight` still trains", "`linear.weight` still trains."),
        ("lora_A is missing", "lora_A is missing."),
        ("linear.weight still trains", "linear.weight still trains."),
        ("merge(1) is wrong: why?", "merge(1) is wrong: why?"),
        ("with B = 0, it is 1", "With B = 0, it is 1."),
        ("B is not zero", "B is not zero."),
    ],
)
def test_an_identifier_keeps_its_case(reason, message):
    def check(student):
        raise Incorrect(reason)

    specification = load_exercise("03-merge")
    object.__setattr__(specification, "module", type("M", (), {"check": staticmethod(check)}))
    assert assess(specification, abs) == ("incorrect", message)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            lambda x, n: (x.round().to(torch.int8), x.abs().amax(0, keepdim=True).expand(3) / n),
            "one scale for all of x",
        ),
        (lambda x, n: (x.round(), 1.0), "the codes are float32, they should be int8."),
        (lambda x, n: (x.round().tolist(), 1.0), "the codes are a list, not a tensor."),
        (lambda x, n: (x.round().to(torch.int8), "1"), "the scale is '1', not a number."),
        (
            lambda x, n: (x.round().to(torch.int8), torch.ones(1)),
            "[14.0, 2.0, 0.0] in 4 bits you return codes [14, 2, 0]",
        ),
    ],
)
def test_absmax_says_what_came_back(returned, message):
    outcome, said = assess(load_exercise("06-absmax"), lambda x, bits: returned(x, 2 ** (bits - 1) - 1))
    assert outcome == "incorrect" and message in said, said


def test_levels_from_a_rounded_probability_are_near_enough_and_others_are_not():
    specification = load_exercise("06-normal-levels")
    for probability, outcome in [("0.9677", "correct"), ("1 - 1 / 32", "incorrect"), ("1 - 1 / 30", "incorrect")]:
        student = specification.build(specification.solution.replace("0.9677083", probability))
        assert assess(specification, student)[0] == outcome, probability


def test_keyboard_interrupts_pass():
    def merge(*arguments):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assess(load_exercise("03-merge"), merge)


def test_cards_escape_markup(shell):
    def merge(*arguments):
        raise ValueError("<script>alert(1)</script>")

    with capture_output() as captured:
        exercise("03-merge").check(merge)
    (output,) = captured.outputs
    assert "<script" not in output.data["text/html"] and "&lt;script&gt;" in output.data["text/html"]
    assert set(output.data) == {"text/plain", "text/html"}


def test_a_card_is_the_same_every_time(capsys):
    specification = load_exercise("03-merge")
    student = specification.build(specification.wrong["adds in bfloat16"][0])
    assert card(capsys, exercise("03-merge").check, student) == card(capsys, exercise("03-merge").check, student)


# What checks are written with


def test_require_tensor_says_what_came_back():
    good = torch.zeros(2, 3)
    assert require_tensor(good, (2, 3), torch.float32) is good
    with pytest.raises(NotAttempted):
        require_tensor(..., (2, 3), torch.float32)
    for value, message in [
        (None, "the result is None"),
        ([0.0], "is a list"),
        (torch.zeros(3, 2), r"shape \(3, 2\), it should have \(2, 3\)"),
        (good.bfloat16(), "is bfloat16, it should be float32"),
        (good / 0, "NaN or infinite"),
    ]:
        with pytest.raises(Incorrect, match=message):
            require_tensor(value, (2, 3), torch.float32)


def test_describe_is_short():
    assert describe(torch.tensor([1.0, 1 / 3])) == "[1.0, 0.333333]"
    assert describe(torch.zeros(4, 5, dtype=torch.bfloat16)) == "a bfloat16 tensor of shape (4, 5)"
    assert describe(torch.nn.Linear(2, 2)) == "a Linear"
    assert len(describe("x" * 500)) <= 80


def test_require_number_says_what_came_back():
    for right in (7, 7.0, torch.tensor(7), np.int64(7)):
        assert require_number(right, 7, "a case") is None
    with pytest.raises(NotAttempted):
        require_number(..., 7, "a case")
    with pytest.raises(Incorrect, match=r"^for a case you return 8, it should be 7: too many$"):
        require_number(8, 7, "a case", {8: "too many"})
    for wrong, said in (
        (None, "None"),
        ("7", "'7'"),
        (True, "True"),
        (float("nan"), "nan"),
        (torch.ones(2), "1.0, 1.0"),
    ):
        with pytest.raises(Incorrect, match=re.escape(said)):
            require_number(wrong, 7, "a case", {1: "one"})
