"""Every exercise file keeps its promises; outcomes, hints and messages reach the student, and nothing raises."""

import inspect
import re
import sys

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from javascript import run_node_tests

from peft_lessons.classroom import progress
from peft_lessons.classroom.exercises import (
    Incorrect,
    NotAttempted,
    describe,
    exercise_ids,
    load_exercise,
    number_of,
    require_tensor,
)
from peft_lessons.classroom.exercises.cases import Case, agree, alike, compare
from peft_lessons.classroom.exercises.exercise import assess, exercise
from peft_lessons.classroom.widgets import parts

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
def test_right_solutions_of_another_shape_pass(name):
    specification = load_exercise(name)
    assert len(specification.right) >= 3
    for shape, source in specification.right.items():
        assert assess(specification, specification.build(source)) == ("correct", "All cases agree."), shape


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
    sources = [specification.starter, specification.solution, *specification.right.values()]
    sources += [source for source, _ in specification.wrong.values()]
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
        def __init__(self, linear, rank, alpha):
            super().__init__()
            self.linear = linear

        def forward(self, x):
            return x / self.missing

    specification = load_exercise("01-repair")
    tried = type("M", (), {"check": staticmethod(lambda student: student(3, 2, 1)(torch.zeros(2)))})
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
        (lambda x, n: (x.round().to(torch.int8), x.abs().amax(0, keepdim=True).expand(3) / n), "the scale is [1.0,"),
        (lambda x, n: (x.round().to(torch.int16), 1.0), "the codes are int16, they should be int8."),
        (lambda x, n: (x.round().tolist(), 1.0), "the codes are a list, not a tensor."),
        (lambda x, n: (x.round().to(torch.int8), "1"), "the scale is '1', it should be a number."),
        (lambda x, n: x.round().to(torch.int8), "return 2 things, the codes and the scale."),
        (
            lambda x, n: (x.round().to(torch.int8), torch.ones(1)),
            "the codes [14, 2, 0] and the scale 1; right is [7, 1",
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
    assert output.data.keys() >= {"text/plain", "text/html"}


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


def test_numbers_of_all_kinds():
    for value in (7, 7.0, torch.tensor(7), torch.tensor([7.0]), np.int64(7), np.float32(7), np.array(7)):
        assert number_of(value) == 7
    for value in (None, "7", True, torch.ones(2), [7], torch.tensor(True)):
        assert number_of(value) is None


def test_both_numbers_show_as_many_decimals_as_tell_them_apart():
    assert alike(1 / 3, 0.5) == ("0.3333", "0.5000")
    assert alike(1.30004, 1.30005) == ("1.30004", "1.30005")
    assert alike(0.00012, 0.0001) == ("0.0001200", "0.0001000")
    assert alike(16384.0, 16908) == ("16,384", "16,908")
    assert alike(torch.tensor(float("nan")), 1) == ("nan", "1")


def test_results_agree_as_exactly_as_float32_can_say():
    x = torch.tensor([1.0, 100.0])
    assert agree(x * 1.00001, x) and not agree(x * 1.001, x)
    assert not agree(x.double(), x) and not agree(x[:1], x) and not agree([1.0, 100.0], x)
    assert agree([1, 2.0], (1, 2)) and not agree([1], [1, 2]) and not agree(2.0001, 2)
    assert agree({"a": x}, {"a": x}) and not agree({"a": x}, {"b": x})
    assert agree(float("nan"), float("nan")) and agree("a", "a") and not agree("a", 1) and not agree(None, 0)
    assert agree(1.00005, 1.0) and not agree(1.0005, 1.0)


def test_of_two_mistakes_that_do_the_same_the_one_is_named_that_stays_the_same():
    wrong = {
        "adds": ("def f(a, b):\n    return a + b\n", "that is a sum"),
        "squares": ("def f(a, b):\n    return a**b\n", "that is a power"),
    }
    cases = [Case((2, 2), 5, "2 and 2"), Case((3, 4), 13, "3 and 4")]
    with pytest.raises(Incorrect, match=r"^for 2 and 2 you return 4, it should be 5: that is a power$"):
        compare(lambda a, b: a**b, cases, wrong)
    with pytest.raises(Incorrect, match=r"^for 2 and 2 you return 6, it should be 5$"):
        compare(lambda a, b: 6, cases, wrong)


# What can go wrong in any exercise


def spoiled(name, spoil):
    """The outcome for the reference solution when `spoil(result, *arguments)` comes after each call of it."""
    specification = load_exercise(name)
    reference = specification.build(specification.solution)
    names = ", ".join(inspect.signature(reference).parameters)
    made = {"reference": reference, "spoil": spoil}
    exec(f"def student({names}):\n    return spoil(reference({names})" + (f", {names})" if names else ")"), made)
    return assess(specification, made["student"])


FUNCTIONS = [name for name in IDS if name != "01-repair"]


def put_in_place(argument) -> bool:
    """Change the argument, if it is one that can be changed."""
    if isinstance(argument, torch.nn.Module):
        next(argument.parameters()).data.add_(1)
    elif isinstance(argument, torch.Tensor):
        argument.add_(1)
    elif isinstance(argument, list):
        argument.append(1)
    elif isinstance(argument, dict):
        argument.popitem()
    else:
        return False
    return True


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_argument_changed_in_place_is_named(name):
    specification = load_exercise(name)
    for place, parameter in enumerate(inspect.signature(specification.build(specification.solution)).parameters):
        changed = []

        def spoil(result, *arguments, place=place, changed=changed):
            changed.append(put_in_place(arguments[place]))
            return result

        outcome, message = spoiled(name, spoil)
        if any(changed):
            assert outcome == "incorrect" and f"`{parameter}" in message and "in place" in message, message
        else:
            assert outcome == "correct", message


def test_a_list_inside_a_dictionary_and_a_frozen_parameter_are_seen():
    outcome, message = spoiled("12-peft-files", lambda result, layers, *_: (layers[min(layers)][0].zero_(), result)[1])
    assert outcome == "incorrect" and "`layers: " in message and "was changed in place" in message
    outcome, message = spoiled("00-trainable-share", lambda result, model: (model.requires_grad_(True), result)[1])
    assert outcome == "incorrect" and "requires_grad` was False before the call and is True after it" in message


def test_a_layer_must_not_change_its_input():
    outcome, message = repair(base="base = self.linear(x); x *= 1.5")
    assert outcome == "incorrect" and "`x`, a float32 tensor of shape (2, 4, 3), was changed in place" in message


@pytest.mark.parametrize("name", IDS)
def test_counts_of_arguments_are_said_in_words(name):
    specification = load_exercise(name)
    passed = list(inspect.signature(specification.build(specification.starter)).parameters)
    outcome, message = assess(specification, lambda a, b, c, d, e, f, g, h: None)
    assert outcome == "incorrect" and "takes 8 arguments (a, b, c, d, e, f, g, h), the check passes" in message
    assert (f"passes {len(passed)} argument" if passed else "passes no arguments") in message
    assert ", ".join(passed) in message and "TypeError" not in message


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("stop", [sys.exit, lambda: sys.exit(0), quit])
def test_leaving_python_is_said(name, stop):
    outcome, message = assess(load_exercise(name), lambda *arguments: stop())
    assert outcome == "incorrect" and "`sys.exit()`" in message and "`return`" in message


@pytest.mark.parametrize("name", FUNCTIONS)
def test_printing_in_place_of_returning_is_said(name, capsys):
    outcome, message = spoiled(name, lambda result, *_: print(result))
    assert outcome == "incorrect" and "write `return` in place of `print`" in message
    assert capsys.readouterr().out, "what is printed is shown all the same"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_returned_is_said(name):
    outcome, message = spoiled(name, lambda result, *_: None)
    assert outcome == "incorrect" and "None" in message and "return" in message


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_ellipsis_anywhere_is_not_attempted(name):
    def spoil(result, *_):
        if isinstance(result, dict):
            return {key: ... for key in result}
        return [*map(spoil, result)] if isinstance(result, tuple | list) and result else ...

    assert spoiled(name, spoil) == ("not attempted", "There is still a `...` in what your code returns.")


def test_an_ellipsis_that_is_computed_with_is_not_attempted():
    outcome, message = assess(load_exercise("02-step-flops"), lambda n, rank: 4 * n * n + ...)
    assert outcome == "not attempted" and "still a `...`" in message


@pytest.mark.parametrize("name", IDS)
def test_endless_recursion_is_said(name):
    def student(*arguments):
        return student(*arguments)

    outcome, message = assess(load_exercise(name), student)
    assert outcome == "incorrect" and "calls itself without an end" in message


def as_arrays(result):
    if isinstance(result, torch.Tensor):
        return result.detach().float().numpy()
    return type(result)(map(as_arrays, result)) if isinstance(result, tuple | list) else result


@pytest.mark.parametrize(
    "name", ["03-forward", "03-gradients", "03-merge", "06-absmax", "06-blocks", "06-normal-levels"]
)
def test_arrays_where_tensors_are_wanted_are_said(name):
    outcome, message = spoiled(name, lambda result, *_: as_arrays(result))
    assert outcome == "incorrect" and "NumPy array" in message and "torch.from_numpy" in message


def nan_like(result):
    if isinstance(result, torch.Tensor) and result.is_floating_point():
        return result * torch.nan
    if isinstance(result, tuple):
        return tuple(map(nan_like, result))
    return float("nan") if isinstance(result, int | float) else result


@pytest.mark.parametrize(
    "name", sorted(set(FUNCTIONS) - {"05-groups", "08-labels", "08-stops", "12-peft-files", "15-request"})
)
def test_nan_is_said(name):
    outcome, message = spoiled(name, lambda result, *_: nan_like(result))
    assert outcome == "incorrect" and "nan" in message.lower()


def test_other_ways_out_do_not_end_the_notebook():
    class Leaves(BaseException):
        pass

    def merge(*arguments):
        raise Leaves("far away")

    outcome, message = assess(load_exercise("03-merge"), merge)
    assert outcome == "incorrect" and "far away" in message


@pytest.mark.parametrize("given", [(), (max, 3)])
def test_check_says_what_to_pass(given, capsys):
    text = card(capsys, exercise("03-merge").check, *given)
    assert "not attempted" in text and "your function `merge` itself: `.check(merge)`" in text


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "03-merge",
            torch.ones(2),
            "your function `merge` itself, `.check(merge)` without more brackets; it was given",
        ),
        ("03-merge", "merge", "it was given 'merge'"),
        ("03-merge", torch.nn.Linear, "your function `merge`, it was given the class `Linear`"),
        ("01-repair", 3, "your class `RepairedLoRALinear` itself"),
    ],
)
def test_a_wrong_thing_is_named(name, given, message):
    outcome, said = assess(load_exercise(name), given)
    assert outcome == "incorrect" and message in said


def test_a_check_leaves_torch_as_it_was():
    def merge(*arguments):
        torch.manual_seed(5)
        torch.set_grad_enabled(False)
        return torch.zeros(2, 2)

    state = torch.get_rng_state()
    for name, student in (("03-merge", merge), ("01-repair", load_exercise("01-repair").build(exercise_source()))):
        assess(load_exercise(name), student)
        assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
        assert not torch.are_deterministic_algorithms_enabled()


def exercise_source() -> str:
    return load_exercise("01-repair").solution


@pytest.mark.parametrize("name", ["03-merge", "06-normal-levels"])
def test_memory_that_nobody_filled_is_not_zero_by_luck(name):
    def spoil(result, *_):
        return torch.where(result == result, result, 0) + 0 * torch.empty_like(result)

    assert spoiled(name, spoil)[0] == "incorrect"


@pytest.mark.parametrize(
    "update",
    [
        "x @ (B @ A).T",
        "x @ (A.T @ B.T)",
        "x @ (alpha * B @ A).T / alpha",
        "x @ torch.einsum('or,ri->oi', B, A).T",
        "x @ sum(torch.outer(B[:, r], A[r]) for r in range(len(A))).T",
        "x @ (B.double() @ A.double()).T.float()",
        "x @ (torch.addmm(weight, B, A) - weight).T",
        "torch.einsum('or,ri,...i->...o', B, A, x)",
    ],
)
def test_building_the_product_is_forbidden_in_every_form(update):
    source = "def lora_forward(x, weight, bias, A, B, alpha):\n"
    source += f"    y = x @ weight.T + alpha / len(A) * ({update})\n    return y if bias is None else y + bias\n"
    specification = load_exercise("03-forward")
    outcome, message = assess(specification, specification.build(source))
    assert outcome == "incorrect" and "builds B A" in message, message


@pytest.mark.parametrize("product", ["(B @ A).float()", "(alpha / rank * B @ A).float() * rank / alpha", "B @ A"])
def test_a_product_in_bfloat16_is_not_exact_enough(product):
    source = "def merge(weight, A, B, alpha, rank):\n"
    source += f"    return (weight.float() + alpha / rank * ({product})).to(weight.dtype)\n"
    specification = load_exercise("03-merge")
    assert assess(specification, specification.build(source))[0] == "incorrect"


@pytest.mark.parametrize(
    "codes",
    [
        "torch.round(x / scale).to(torch.int8)",
        "torch.round(x / scale).char()",
        "torch.zeros(x.shape, dtype=torch.int8).copy_(torch.round(x / scale))",
        "torch.from_numpy((x.numpy() / scale.numpy()).round().astype('int8'))",
    ],
)
def test_a_missing_guard_against_zero_is_seen_though_the_numbers_are_right(codes):
    specification = load_exercise("06-absmax")
    source = "def absmax_quantize(x, bits):\n    scale = x.abs().max() / (2 ** (bits - 1) - 1)\n"
    outcome, message = assess(specification, specification.build(f"{source}    return {codes}, scale\n"))
    assert outcome == "incorrect" and "x = [0.0, 0.0]" in message and "NaN" in message


# The card


MERGE = load_exercise("03-merge")


def card_of(shell, source: str):
    """The card that a notebook shows after a cell with `source` and one with the check."""
    shell.run_cell(f"import torch\nfrom torch import nn\n{source}")
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peft_lessons.classroom.exercises.exercise.display", shown.append)
        exercise("03-merge").check(shell.user_ns["merge"])
    return shown[0]


def test_the_card_checks_again_when_the_cell_has_run_again(shell):
    widget = card_of(shell, MERGE.starter)
    assert widget.verdict["outcome"] == "not attempted"
    shell.run_cell(next(iter(MERGE.wrong.values()))[0])
    assert widget.verdict["outcome"] == "incorrect"
    shell.run_cell("x = 1")
    shell.run_cell(MERGE.solution)
    assert widget.verdict["outcome"] == "correct"
    outcomes = [event.outcome for event in progress.events("03-merge", "exercise")]
    assert outcomes == ["not attempted", "incorrect", "correct"], "a cell of something else is no attempt"


def test_of_two_cards_of_an_exercise_the_newer_one_notes_attempts(shell):
    card_of(shell, MERGE.starter)
    card_of(shell, MERGE.starter)
    shell.run_cell(MERGE.solution)
    outcomes = [event.outcome for event in progress.events("03-merge", "exercise")]
    assert outcomes.count("correct") == 1


def test_the_card_gives_hints_one_by_one_and_then_the_solution(shell):
    widget = card_of(shell, MERGE.starter)
    assert not widget.hints and not widget.solution
    for number in range(1, len(MERGE.hints) + 3):
        widget.set_state({"asked": {"number": number, "what": "hint"}})
        assert len(widget.hints) == min(number, len(MERGE.hints))
    assert not widget.solution
    widget.set_state({"asked": {"number": 99, "what": "solution"}})
    assert "peft-source" in widget.solution
    assert {event.kind for event in progress.events("03-merge")} == {"exercise", "hint", "solution"}


def test_what_runs_later_is_the_students_own_once_it_is_right(capsys):
    task = exercise("03-merge")
    right, wrong = MERGE.build(MERGE.solution), MERGE.build(MERGE.starter)
    assert task.use(right) is right
    assert "Yours: `merge` has passed" in capsys.readouterr().out
    ours = task.use(wrong)
    assert ours is not wrong and task.assess(ours)[0] == "correct"
    assert "Ours: as soon as yours passes its check, yours runs here." in capsys.readouterr().out
    assert not progress.events("03-merge"), "using is not an attempt"


def test_front_end_of_the_card(shell, tmp_path):
    widget = card_of(shell, MERGE.starter)
    names = ("exercise", "verdict", "hints", "hints_in_all", "solution", "notice", "asked", "heard", "answered")
    script = parts.source("parts.js", "exercise_card.js")
    run_node_tests(
        "exercise_card.test.js", {"script": script, "state": {n: getattr(widget, n) for n in names}}, tmp_path
    )
