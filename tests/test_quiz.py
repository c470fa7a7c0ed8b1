"""Quizzes: the question files, grading, what reaches the browser, restoring, evidence, and legible colours."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import traitlets
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from javascript import run_node_tests

from peft_lessons.classroom import progress, widgets
from peft_lessons.classroom.output.cards import inline_html
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.classroom.widgets.quiz import Quiz, evidence, quiz
from peft_lessons.lessons import questions
from peft_lessons.lessons.questions import Option, Question, load_lesson, load_question

WIDGETS = Path(widgets.__file__).parent
LESSONS = list(questions.files())
ALL = [question for lesson in LESSONS for question in load_lesson(lesson)]

HOSTILE = Question(
    "01-hostile",
    "Is <script>alert(1)</script> run?",
    (
        Option("a", "<img src=x onerror=alert(1)>", False, "no <script>a</script>"),
        Option("b", "`<b>` & *so*", True, "yes <script>b</script>"),
    ),
)


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))


@pytest.fixture
def shell():
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def answered(question: Question, letter: str) -> dict:
    widget = Quiz(question)
    widget.set_state({"answer": letter})
    return widget.result


# The questions


@pytest.mark.parametrize("question", ALL, ids=lambda question: question.id)
def test_every_question_is_well_made(question):
    assert question.text.endswith("?") or question.text.endswith("…")
    assert len(question.options) == 4
    for option in question.options:
        assert len(option.feedback) >= 30, "a feedback says why"
        for text in (question.text, option.text, option.feedback):
            assert text.count("`") % 2 == 0
            assert "  " not in text and "$" not in text


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_key_cannot_be_guessed_from_its_place(lesson):
    keys = [question.key for question in load_lesson(lesson)]
    assert len(keys) == 1 or len(set(keys)) > 1


def test_the_key_cannot_be_guessed_from_its_length():
    """Of four options each is the longest in a quarter of the questions if length says nothing."""
    longest = [
        question
        for question in ALL
        if max(question.options, key=lambda option: len(option.text)).letter == question.key
    ]
    assert len(longest) <= len(ALL) / 3


def write(folder: Path, monkeypatch, text: str) -> None:
    file = folder / "questions.toml"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(questions, "files", lambda: {"05": file})


GOOD = """
[[question]]
id = "05-x"
text = "Why?"
[[question.option]]
text = "A"
correct = true
feedback = "fa"
[[question.option]]
text = "B"
correct = false
feedback = "fb"
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("correct = true", "correct = false"), "exactly one option"),
        (("correct = false", "correct = true"), "exactly one option"),
        (('feedback = "fb"', 'feedback = "fa"'), "feedback of its own"),
        (('feedback = "fb"', ""), "option b: lacks feedback"),
        (('feedback = "fb"', 'feedback = ""'), "feedback of its own"),
        (('text = "B"', 'text = "A"'), "text of its own"),
        (('text = "B"', 'text = "B"\nhint = "h"'), "unknown hint"),
        (('id = "05-x"', 'id = "06-x"'), "must begin with '05'"),
        (('id = "05-x"', 'id = "05 x"'), "an id looks like"),
        (('text = "Why?"', ""), "lacks text"),
        (("[[question]]", "[question"), "questions.toml"),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path, monkeypatch, change, message):
    write(tmp_path, monkeypatch, GOOD)
    assert load_question("05-x").key == "a"
    write(tmp_path, monkeypatch, GOOD.replace(*change, 1))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_lesson("05")


def test_only_one_option_has_evidence(tmp_path, monkeypatch):
    text = GOOD.replace("correct = true", "correct = true\nevidence = true")
    write(tmp_path, monkeypatch, text)
    assert [option.evidence for option in load_question("05-x").options] == [True, False]
    write(tmp_path, monkeypatch, text.replace("correct = false", "correct = false\nevidence = true"))
    with pytest.raises(ValueError, match=r"05-x.*at most one option may have evidence = true, not a, b"):
        load_lesson("05")


def test_a_repeated_id_is_refused(tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, GOOD + GOOD)
    with pytest.raises(ValueError, match="same id"):
        load_lesson("05")


def test_an_unknown_id_lists_what_there_is():
    with pytest.raises(ValueError, match="no question '01-gaol'; lesson 01 has 01-goal"):
        quiz("01-gaol")
    with pytest.raises(ValueError, match=r"there are questions for .*01"):
        quiz("77-goal")


# Grading


@pytest.mark.parametrize("question", ALL, ids=lambda question: question.id)
def test_every_answer_gets_its_verdict_and_feedback(question):
    for option in question.options:
        result = answered(question, option.letter)
        assert result["correct"] is option.correct
        assert result["feedback"][option.letter] == inline_html(option.feedback)
        assert len(result["feedback"]) == (len(question.options) if option.correct else 1)


def test_the_browser_never_gets_the_key():
    question = load_question("01-goal")
    state = json.dumps(
        {name: value for name, value in Quiz(question).get_state().items() if name not in ("_esm", "_css")}
    )
    assert "correct" not in state and question.digest not in state
    assert all(option.feedback[:20] not in state for option in question.options)
    wrong = next(option for option in question.options if not option.correct)
    result = json.dumps(answered(question, wrong.letter))
    assert all(option.feedback[:20] not in result for option in question.options if option is not wrong)


def test_an_answer_that_is_no_option_is_refused():
    widget = Quiz(load_question("01-goal"))
    with pytest.raises(traitlets.TraitError, match="not 'z'"):
        widget.set_state({"answer": "z"})
    assert widget.result == {}


def test_self_test_catches_a_wrong_verdict(monkeypatch):
    monkeypatch.setattr(Question, "key", property(lambda self: "a"))
    question = load_question("01-goal")
    assert not question.options[0].correct
    with pytest.raises(RuntimeError, match="option a was graded"):
        Quiz(question)


def test_self_test_catches_a_swapped_feedback(monkeypatch):
    honest = Quiz._option
    monkeypatch.setattr(Quiz, "_option", lambda self, letter: replace(honest(self, letter), feedback="another"))
    with pytest.raises(RuntimeError, match="another option's feedback"):
        Quiz(load_question("01-goal"))


# Progress


def test_answers_are_recorded_and_the_self_test_is_not():
    question = load_question("01-goal")
    wrong = next(option.letter for option in question.options if not option.correct)
    widget = Quiz(question)
    assert progress.events() == []
    widget.set_state({"answer": wrong})
    widget.set_state({"answer": question.key})
    assert [(event.lesson, event.item, event.kind, event.outcome) for event in progress.events()] == [
        ("01", "01-goal", "quiz", "incorrect"),
        ("01", "01-goal", "quiz", "correct"),
    ]


def test_the_right_answer_counts_those_of_its_lesson():
    ids = questions.question_ids("01")
    for done, which in enumerate(ids[:2], 1):
        question = load_question(which)
        wrong = next(option.letter for option in question.options if not option.correct)
        assert answered(question, wrong)["answered"] == {}
        assert answered(question, question.key)["answered"] == {"done": done, "total": len(ids)}


def test_a_new_kernel_restores_the_last_answer_without_recording_it():
    question = load_question("01-goal")
    for letter in ("a", "b"):
        before = answered(question, letter)
        again = Quiz(question)
        assert (again.answer, again.result) == (letter, before)
    assert len(progress.events()) == 2


def test_to_answer_again_starts_afresh_and_is_no_event():
    question = load_question("01-goal")
    widget = Quiz(question)
    widget.set_state({"answer": question.key})
    widget.set_state({"answer": ""})
    assert widget.result == {} and len(progress.events()) == 1


def test_an_answer_to_an_older_wording_is_not_restored():
    question = load_question("01-goal")
    answered(question, question.key)
    assert Quiz(replace(question, text="Another?")).result == {}


def test_a_store_that_cannot_be_written_is_said_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(progress, "_warned", False)
    widget = Quiz(load_question("01-goal"))
    widget.set_state({"answer": "a"})
    assert "not being saved" in widget.result["notice"] and widget.result["correct"] is False
    widget.set_state({"answer": "b"})
    assert widget.result["notice"] == ""


# Evidence

RIGHT = replace(HOSTILE, options=(HOSTILE.options[0], replace(HOSTILE.options[1], evidence=True)))
WRONG = replace(HOSTILE, options=(replace(HOSTILE.options[0], evidence=True), HOSTILE.options[1]))


@pytest.fixture
def bank(monkeypatch):
    """Questions of the test's own, by id, and a kernel in which no cell has run."""
    own = {"right": RIGHT, "wrong": WRONG, "none": HOSTILE}
    monkeypatch.setitem(quiz.__globals__, "load_question", own.__getitem__)
    monkeypatch.setitem(quiz.__globals__, "_EVIDENT", set())


@pytest.mark.parametrize("boolean", [bool, torch.tensor, np.bool_, np.array, lambda value: torch.tensor([value])])
def test_evidence_that_agrees_opens_the_question(bank, capsys, boolean):
    for question, truth in (("right", True), ("wrong", False)):
        with pytest.raises(ValueError, match=f"{question} asks about something .* run the cells above first"):
            quiz(question)
        evidence(question, boolean(truth))
        quiz(question)
    assert capsys.readouterr().out.count("key checked by what the lesson computed") == 2


def test_evidence_that_contradicts_the_key_is_refused_and_shuts_the_question(bank):
    evidence("right", True)
    with pytest.raises(ValueError, match="right: the lesson computed that option b is False, but the key says True"):
        evidence("right", False)
    with pytest.raises(ValueError, match="run the cells above first"):
        quiz("right")
    with pytest.raises(ValueError, match="wrong: the lesson computed that option a is True, but the key says False"):
        evidence("wrong", True)


@pytest.mark.parametrize("holds", [1, "True", None, {"b": True}, torch.tensor(1.0), torch.tensor([True, True])])
def test_evidence_that_is_no_bool_is_refused(bank, holds):
    with pytest.raises(ValueError, match=re.escape(f"right: evidence must be True or False, got {holds!r}")):
        evidence("right", holds)


def test_evidence_that_nobody_asks_for_is_refused(bank):
    with pytest.raises(ValueError, match="none asks for no evidence"):
        evidence("none", True)
    quiz("none")


def test_evidence_for_an_unknown_question_lists_what_there_is():
    with pytest.raises(ValueError, match="no question '01-gaol'; lesson 01 has 01-goal"):
        evidence("01-gaol", True)


def test_the_stored_text_does_not_say_which_option_has_the_evidence():
    same = [re.sub("digest [0-9a-f]+", "digest", repr(Quiz(question))) for question in (RIGHT, WRONG)]
    assert same[0] == same[1]


# What is stored


def test_a_cell_shows_the_quiz_once(shell):
    with capture_output() as captured:
        assert quiz("01-goal") is None
    assert captured.stdout == captured.stderr == ""
    (output,) = captured.outputs
    assert set(output.data) == {"text/plain", "text/markdown", "application/vnd.jupyter.widget-view+json"}


def stored(question: Question) -> dict[str, str]:
    data = Quiz(question)._repr_mimebundle_()[0]
    return {kind: data[kind] for kind in ("text/plain", "text/markdown")}


@pytest.mark.parametrize("question", ALL, ids=lambda question: question.id)
def test_the_stored_forms_know_no_learner(question):
    fresh = stored(question)
    answered(question, question.key)
    assert stored(question) == fresh
    for form in fresh.values():
        assert "0x" not in form and str(progress.home()) not in form
    assert repr(Quiz(question)) == fresh["text/plain"]


def test_the_text_form_changes_with_every_part_of_the_question():
    question = load_question("01-goal")
    first, second, *rest = question.options
    changed = [
        replace(question, text="Another?"),
        replace(question, options=(replace(first, text="Another"), second, *rest)),
        replace(question, options=(replace(first, feedback="Another"), second, *rest)),
        replace(question, options=(replace(first, correct=True), replace(second, correct=False), *rest)),
        replace(question, options=(replace(first, evidence=True), second, *rest)),
    ]
    forms = [stored(each)["text/plain"] for each in (question, *changed)]
    assert len(set(forms)) == len(forms)
    assert "self-test 4 of 4" in forms[0]


def test_the_markdown_form_folds_every_answer():
    question = load_question("01-advantage")
    form = stored(question)["text/markdown"]
    assert form.count("<details>") == form.count("</details>") == len(question.options)
    assert form.count("✔ Correct.") == 1
    for option in question.options:
        assert inline_html(option.text) in form and inline_html(option.feedback) in form
    assert "\n\n" not in form, "a blank line would end the HTML block"


def test_all_forms_escape_markup():
    form = stored(HOSTILE)["text/markdown"]
    assert "<script" not in form and "<img" not in form
    assert "<code>&lt;b&gt;</code> &amp; <em>so</em>" in form
    state = Quiz(HOSTILE).get_state()
    assert "<script" not in json.dumps(state["question"])
    assert "<script" not in json.dumps(answered(HOSTILE, "b"))


# The front end


def test_front_end(tmp_path):
    question = load_question("01-goal")
    names = ("question", "answer", "result")
    data = {
        "script": source("parts.js", "quiz.js"),
        "state": {name: getattr(Quiz(question), name) for name in names},
        "hostile": {name: getattr(Quiz(HOSTILE), name) for name in names},
        "key": question.key,
        "results": {option.letter: answered(question, option.letter) for option in question.options},
    }
    run_node_tests("quiz.test.js", data, tmp_path)


def test_a_page_without_a_kernel_drives_quiz_and_map(tmp_path):
    question = load_question("01-goal")
    data = {
        "quizScript": source("parts.js", "quiz.js"),
        "mapScript": source("parts.js", "progress.js"),
        "quiz": {name: getattr(Quiz(question), name) for name in ("question", "answer", "result")},
        "rows": progress.lesson_progress(),
        "key": question.key,
        "results": {option.letter: answered(question, option.letter) for option in question.options},
    }
    run_node_tests("static_page.test.js", data, tmp_path)


# Colours


def tokens() -> dict[str, dict[str, str]]:
    """The colour tokens of theme.css by theme."""
    css = re.sub(r"/\*.*?\*/", "", (WIDGETS / "theme.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = re.findall(r"([^{}]+)\{([^{}]*)\}", css)
    assert len(blocks) == 2
    return {
        "dark" if 'data-jp-theme-light="false"' in selector else "light": dict(
            re.findall(r"--([a-z-]+):\s*(#[0-9a-f]{6});", body)
        )
        for selector, body in blocks
    }


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_agrees_with_known_values():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_pair_of_colours_is_legible(theme):
    colours = tokens()[theme]
    surfaces = [name for name in colours if not name.startswith(("on-", "edge-"))]
    assert surfaces == ["surface", "button"]
    pairs = 0
    for name, colour in colours.items():
        for surface in surfaces:
            if name == f"on-{surface}" or name.startswith(f"on-{surface}-"):
                assert contrast(colour, colours[surface]) >= 4.5, (theme, name)
                pairs += 1
            if name == f"edge-{surface}" or name.startswith(f"edge-{surface}-"):
                assert contrast(colour, colours[surface]) >= 3, (theme, name)
                pairs += 1
    assert contrast(colours["button"], colours["surface"]) >= 3
    assert pairs == len(colours) - len(surfaces), "every token is a surface or lies on one"


def test_both_themes_have_the_same_tokens():
    assert tokens()["light"].keys() == tokens()["dark"].keys()


@pytest.mark.parametrize(
    "name",
    [*(f"widgets/{path.name}" for path in sorted(WIDGETS.glob("*.css")) if path.stem != "theme"), "output/show.css"],
)
def test_style_sheets_take_text_from_the_tokens_of_their_surface(name):
    css = re.sub(r"/\*.*?\*/", "", (WIDGETS.parent / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl", css), "colours live in theme.css"
    known = tokens()["light"]
    assert set(re.findall(r"var\(--([a-z-]+)\)", css)) <= known.keys()
    for _, body in re.findall(r"([^{}]+)\{([^{}]*)\}", css):
        text = re.search(r"(?<![\w-])color:\s*([^;!]+)", body)
        surface = re.search(r"(?<![\w-])background:\s*([^;!]+)", body)
        if not text:
            continue
        ground = surface[1].strip() if surface else "var(--surface)"
        allowed = {"inherit"} if ground == "transparent" else {ground.replace("--", "--on-")}
        token = text[1].strip()
        assert any(token == each or token.startswith(each.rstrip(")") + "-") for each in allowed), (name, body)


def test_ids_are_unique_across_lessons():
    assert all(one.id != other.id for one, other in itertools.combinations(ALL, 2))
