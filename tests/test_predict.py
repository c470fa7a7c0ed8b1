"""A guess is asked for, kept, compared with what was measured, and found again the next day."""

import json
import math

import pytest
import traitlets
from javascript import run_node_tests

from peft_lessons.classroom import progress
from peft_lessons.classroom.output.claims import ClaimError, fact
from peft_lessons.classroom.progress import guesses
from peft_lessons.classroom.widgets import predict as module
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.classroom.widgets.predict import Prediction, predict, reveal

KINDS = {
    "number": {"between": (1, 500), "unit": " times"},
    "choice": {"options": ["only `A`", "only B", "both"]},
    "ranking": {"ranking": ["full", "LoRA", "nothing"]},
    "curve": {"between": (0, 10), "curve": [1, 8, 64]},
}
GUESSES = {"number": 20.0, "choice": 1, "ranking": [2, 0, 1], "curve": [1.0, 2.0, 4.0]}


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(progress, "_warned", False)
    monkeypatch.setattr(module, "_asked", {})


def asked(kind: str, name: str = "03-x") -> Prediction:
    predict(name, "What will it be?", **KINDS[kind])
    return module._asked[name]


def revealed(capsys, measured, name: str = "03-x") -> str:
    capsys.readouterr()
    reveal(name, measured)
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize("kind", KINDS)
def test_a_guess_is_kept_and_found_again(kind):
    widget = asked(kind)
    assert widget.guess is None
    widget.set_state({"guess": GUESSES[kind]})
    (event,) = progress.events("03-x", "guess")
    assert (event.outcome, json.loads(event.detail)) == ("shown", {"guess": GUESSES[kind]})
    assert asked(kind).guess == GUESSES[kind], "the next day"


def test_a_guess_that_no_longer_fits_its_question_is_not_shown():
    asked("choice").set_state({"guess": 2})
    predict("03-x", "Another question", options=["a", "b"])
    assert module._asked["03-x"].guess is None


@pytest.mark.parametrize(
    ("kind", "impossible"),
    [
        ("number", 501), ("number", 0.5), ("number", "20"), ("number", True), ("number", [20]), ("number", math.nan),
        ("choice", 3), ("choice", -1), ("choice", 0.5), ("ranking", [0, 1]), ("ranking", [0, 0, 1]), ("ranking", 1),
        ("curve", [1.0, 2.0]), ("curve", [1.0, 2.0, 11.0]), ("curve", 1.0),
    ],
)  # fmt: skip
def test_what_cannot_be_guessed_is_refused(kind, impossible):
    widget = asked(kind)
    with pytest.raises(traitlets.TraitError, match="03-x cannot be guessed as"):
        widget.guess = impossible
    assert not progress.events("03-x")


@pytest.mark.parametrize(
    ("kind", "measured", "said"),
    [
        ("number", fact(52.36, equals=52.4, within=0.1), "✘ You said 20.0 times; it is ≈ 52.4 times."),
        ("number", fact(21, equals=21), "✔ You said 20.0 times; it is 21 times."),
        ("choice", "only B", "✔ You said “only B”; it is “only B”."),
        ("choice", "only `A`", "✘ You said “only B”; it is “only `A`”."),
        ("ranking", ["nothing", "full", "LoRA"], "✔ You said nothing, full, LoRA; it is nothing, full, LoRA."),
        ("ranking", ["full", "LoRA", "nothing"], "✘ You said nothing, full, LoRA; it is full, LoRA, nothing."),
        ("curve", [1, 2, 4.5], "✔ You said 1.00, 2.00, 4.00; it is ≈ 1.00, ≈ 2.00, ≈ 4.50."),
        ("curve", [1, 2, 8], "✘ You said 1.00, 2.00, 4.00; it is ≈ 1.00, ≈ 2.00, ≈ 8.00."),
    ],
)
def test_the_guess_stands_beside_the_result(kind, measured, said, capsys):
    widget = asked(kind)
    widget.guess = GUESSES[kind]
    assert revealed(capsys, measured) == said
    assert widget.said == said[2:]
    reveal("03-x", measured)  # a cell that runs twice is one guess
    _, event = progress.events("03-x", "guess")
    assert event.outcome == ("correct" if said.startswith("✔") else "incorrect")
    assert json.loads(event.detail)["guess"] == GUESSES[kind]


@pytest.mark.parametrize(("guess", "close"), [(41, True), (64, True), (40.9, False), (64.1, False)])
def test_a_number_is_right_within_a_quarter(guess, close, capsys):
    asked("number").guess = guess
    said = revealed(capsys, fact(51.2, at_least=1))
    assert said.startswith("✔" if close else "✘")


def test_guesses_become_better():
    """A wrong choice is no number that is off by less than twice, though its place may be 1 for 2."""
    for place in range(3):
        asked("choice", f"03-c{place}").guess = 1
        reveal(f"03-c{place}", "both")
    for place in range(3):
        asked("number", f"03-n{place}").guess = 20.0
        reveal(f"03-n{place}", fact(35.0, equals=35, within=1))
    assert guesses.improvement() == {"earlier": {"close": 0, "total": 3}, "later": {"close": 3, "total": 3}}


def test_a_lesson_that_runs_by_itself_has_no_guess(capsys):
    asked("number")
    assert revealed(capsys, fact(52.36, equals=52.4, within=0.1)) == "· No guess here: it is ≈ 52.4 times."
    assert not progress.events("03-x")


def test_what_is_revealed_must_belong_to_the_question():
    with pytest.raises(ValueError, match="nothing was predicted as '03-x'; there is nothing yet"):
        reveal("03-x", 1)
    asked("choice")
    with pytest.raises(ValueError, match="03-x: 'all' is not among 'only `A`', 'only B', 'both'"):
        reveal("03-x", "all")
    asked("number", "03-y")
    with pytest.raises(ValueError, match=r"03-y: reveal a number as fact\(…\), got 3"):
        reveal("03-y", 3)
    with pytest.raises(ClaimError, match="03-y: measured 3; expected 4"):
        reveal("03-y", fact(3, equals=4))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "exactly one of"),
        ({"options": ["a"], "between": (0, 1)}, "exactly one of"),
        ({"curve": [1, 2]}, "exactly one of"),
        ({"between": (2, 2)}, "is empty"),
    ],
)
def test_a_question_asks_for_one_kind_of_guess(wrong, message):
    with pytest.raises(ValueError, match=message):
        predict("03-x", "What?", **wrong)


def test_without_a_kernel_the_question_can_still_be_read():
    bundle, _ = asked("choice")._repr_mimebundle_()
    assert bundle["text/plain"] == "Predict 03-x: What will it be?\n  - only `A`\n  - only B\n  - both"
    assert "<li>only <code>A</code></li>" in bundle["text/html"]


def test_front_end(tmp_path):
    names = ("asked", "guess", "skipped", "said", "notice")
    states = {kind: {name: getattr(asked(kind), name) for name in names} for kind in KINDS}
    script = source("parts.js", "predict.js")
    run_node_tests("predict.test.js", {"script": script, "states": states, "guesses": GUESSES}, tmp_path)
