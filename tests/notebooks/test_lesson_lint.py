"""The rules about a lesson's parts and its numbers, on a small whole lesson and on copies with one part broken."""

import re

import pytest

from tools.lessons import lesson_lint
from tools.lessons.lesson_lint import Facts

STARTER = "def merge(W):\n    return ...\n"
FACTS = Facts("03", (20, 2), {"03-merge": STARTER}, ("03-start",), ("03-start",))
OPENING = """# 03 · Merging

**You will be able to** merge. **You need** lesson 02.

Minutes: 20 to read, 2 to run."""
ENDING = "## Summary\n\nDone.\n\n## What is not known\n\nMuch.\n\n## Sources\n\nOne.\n\n## Next step\n\nLesson 04."


COMPUTED = 'gradient = 0\nevidence("03-start", gradient == 0)'
ASKED = 'quiz("03-start")'


def lesson(
    make,
    *,
    opening=OPENING,
    computed=COMPUTED,
    asked=ASKED,
    starter=STARTER,
    which="03-merge",
    check="task.check(merge)",
    ending=ENDING,
):
    return make.notebook(
        make.prose(opening),
        make.code(computed),
        make.code(asked),
        make.code('task = exercise("03-merge")'),
        make.code(starter, tags=["exercise"], exercise=which),
        make.code(check),
        *map(make.prose, re.split(r"\n\n(?=## )", ending)),
    )


def test_a_whole_lesson_passes(make):
    assert lesson_lint.problems(lesson(make), FACTS) == []


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"opening": OPENING.replace("# 03", "# 04")}, "title with the lesson's number"),
        ({"opening": OPENING.replace("You will be able to", "Goals")}, "'You will be able to'"),
        ({"opening": OPENING.replace("You need", "You know")}, "'need'"),
        ({"opening": OPENING.replace("Minutes: 20 to read, 2 to run.", "Quick.")}, "'minutes'"),
        ({"opening": OPENING.replace("20 to read", "10 to read")}, "(20, 2)"),
        ({"opening": OPENING + "\n\n## Merging twice"}, "write +++ before '## Merging twice'"),
        ({"asked": f"{COMPUTED}\n{ASKED}", "computed": "1"}, 'holds more than quiz("03-start")'),
        ({"asked": "quiz('03-start')  # B is zero"}, 'holds more than quiz("03-start")'),
        ({"computed": "gradient = 0"}, "needs one evidence(…) call in the cells above it, and has 0"),
        ({"computed": f"{COMPUTED}\n{COMPUTED}"}, "needs one evidence(…) call in the cells above it, and has 2"),
        ({"computed": ASKED, "asked": COMPUTED}, "needs one evidence(…) call in the cells above it, and has 0"),
        ({"starter": "def merge(W):\n    return W\n"}, "differs from the STARTER"),
        ({"which": "03-other"}, "is the starter of '03-other'"),
        ({"check": "merge(1)"}, "no later cell calls .check"),
        ({"check": 'exercise("03-other").check(merge)'}, "no later cell calls .check"),
        ({"ending": ENDING.replace("## Summary", "Summary")}, "no heading has 'summary'"),
        ({"ending": ENDING.replace("not known", "open")}, "no heading has 'not known'"),
        ({"ending": ENDING.replace("Sources", "Links")}, "no heading has 'sources'"),
        ({"ending": ENDING.replace("Next step", "Bye")}, "no heading has 'next'"),
        ({"ending": "## Sources\n\n" + ENDING.replace("## Sources", "")}, "'sources' stands too early"),
    ],
)
def test_a_broken_part_is_named(make, broken, message):
    problems = lesson_lint.problems(lesson(make, **broken), FACTS)
    assert any(message in problem for problem in problems), problems


def test_exercises_and_quizzes_are_those_of_the_course(make):
    whole = lesson(make)
    assert lesson_lint.problems(whole, Facts("03", (20, 2), {"03-merge": STARTER}, ("03-other",), ("03-start",))) == [
        "quiz '03-start' is not among this lesson's questions: 03-other",
        "question '03-other' of this lesson is never asked",
    ]
    more = Facts("03", (20, 2), {"03-merge": STARTER, "03-inject": STARTER}, ("03-start",), ("03-start",))
    assert lesson_lint.problems(whole, more) == ["exercise '03-inject' has no starter cell"]
    needless = Facts("03", (20, 2), {"03-merge": STARTER}, ("03-start",))
    assert lesson_lint.problems(whole, needless) == [
        "question '03-start' needs no evidence(…) call in the cells above it, and has 1"
    ]
    empty = make.notebook(make.prose(OPENING), make.code("x"), make.prose(ENDING))
    found = lesson_lint.problems(empty, FACTS)
    assert any("no quiz" in problem for problem in found) and any("no exercise:" in problem for problem in found)


def test_check_before_the_starter_does_not_count(make):
    whole = lesson(make)
    whole.cells[4], whole.cells[5] = whole.cells[5], whole.cells[4]
    assert any("no later cell" in problem for problem in lesson_lint.problems(whole, FACTS))


CLAIMED = [
    "The layer deviates by 57.7 % of the base.",
    "57.7\u00a0% of it, that is 0.577.",
    "It has 12,288 parameters, of 12 288 in all.".replace("12 288", "12\u202f288"),
    "The model has 135M parameters, or 135 000 000.".replace(" ", "\u00a0"),
    "It fell by −57.7 %.",
    "A ratio of 62.5 %",
]
EXEMPT = [
    "Three of 10 matrices, 4 bits, rank 8.",
    "In code: `x[128]` and ``a`512`` or\n```python\nx = 4096\n```\nno more.",
    "Formulas $r = 128$, $$\\frac{1}{4096}$$ and \\(77\\).",
    "[as 99 showed](https://example.org/1234) and https://example.org/5678",
    '<img alt="300 lines" src="x"> &#8212;',
    "## 17 Merging",
    "11. The eleventh\n12) The twelfth",
    "Hu et al. (2021), and Dettmers, 2023.",
    "SmolLM2-135M-Instruct, GPT-2, NF4, fp32, B0, 4-bit, 16-bit, 32 bits, RoBERTa-large-355M",
    "See lesson 11, sections 4.1 and 7.2, Table 15, Figures 12–14, equation (31), § 5.12, Python 3.11.",
    'It says “about 300 apples” and "400 pears".',
    "The paper reports 43.1 tokens a second (arXiv:2106.09685 §4.2).",
]
UNCLAIMED = {
    "It deviates by 57.8 %.": "57.8 %",
    "It deviates by 57.7.": "57.7",
    "We train 12,289 parameters.": "12,289",
    "We train 12289.": "12289",
    "About 5 % of it.": "5 %",
    "It is 4× smaller.": "4×",
    "It is 3x faster.": "3x",
    "A matrix of 768 × 12,288.": "768",
    "It takes 2.5 hours.": "2.5",
    "A 7B model.": "7B",
    "The rank-128 adapter.": "128",
    "Some 2048 tokens, in 2048 steps.": "2048",
    "| a | b |\n|---|---|\n| x | 33.3 |": "33.3",
    "The paper reports 43.1 (arXiv:2106.09685). We see 44.2.": "44.2",
    "We see 44.2. The paper reports 43.1 (arXiv:2106.09685).": "44.2",
    "It was 57.7 %, then 81.2%.": "81.2%",
}


def with_claims(make, text):
    return make.notebook(
        make.prose("# 03"),
        make.card("The layer deviates by a lot", "0.577 ± 0.02", source="arXiv:2106.09685, 57.8 %"),
        make.card("It trains 12,288 parameters", "12,288", measured="12,289"),
        make.card("SmolLM2 has 135M parameters", "between 1 and 200,000,000"),
        make.card("The ratio", "at most 0.625"),
        make.prose(text),
    )


@pytest.mark.parametrize("text", CLAIMED + EXEMPT)
def test_claimed_and_exempt_numbers_pass(make, text):
    assert list(lesson_lint.numbers_are_claimed(with_claims(make, text))) == []


@pytest.mark.parametrize("text", UNCLAIMED)
def test_unclaimed_numbers_are_named(make, text):
    problems = list(lesson_lint.numbers_are_claimed(with_claims(make, text)))
    assert problems and all(problem.startswith("cell 5 (") for problem in problems)
    assert repr(UNCLAIMED[text]) in problems[0], problems


def test_only_the_card_of_a_claim_counts(make):
    """A number that was merely printed is checked by nobody."""
    notebook = make.notebook(make.code("print(57.7)", make.printed("57.7 %")), make.prose("It is 57.7 %."))
    assert len(list(lesson_lint.numbers_are_claimed(notebook))) == 1


def test_claims_of_the_classroom_leave_cards_that_are_read(make, capsys):
    """The rule reads what `claim` prints; were its words to change, no number would count as claimed."""
    from peft_lessons.classroom.output import claims

    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "display", shown.append)
        claims.claim("A third of 1,234 weights", 0.577, equals=0.577, within=0.02, source="arXiv:2106.09685")
    notebook = make.notebook(make.code("claim", make.shown(text_plain=repr(shown[0]))))
    values = {str(value) for value, _ in lesson_lint.claimed(notebook)}
    assert {"1234", "0.577", "57.700"} <= values and "2106.09685" not in values


def test_numbers_in_the_text_of_say_are_checked_too(make):
    checked = "It is ≈ 52.4.\n✔ 1 number checked\n  ✔ x = ≈ 52.4\n    measured 52.36; expected 52.4 ± 0.1"
    right = make.code(
        "say('It is {x:.1f}, not 52.4.', x=fact(value, equals=52.4, within=.1))", make.shown(text_plain=checked)
    )
    wrong = make.code(
        "say('It is {x}, or 57.7 %.', x=fact(value, equals=52.4, within=.1))", make.shown(text_plain=checked)
    )
    assert list(lesson_lint.numbers_are_claimed(make.notebook(right))) == []
    assert "'57.7 %'" in next(lesson_lint.numbers_are_claimed(make.notebook(wrong)))


def test_a_guess_is_revealed_by_the_next_cell(make):
    asks, shows = make.code('predict("03-x", "What?", between=(0, 1))'), make.code('reveal("03-x", fact(1, equals=1))')
    other = make.code("train()")
    rule = lesson_lint.guesses_are_revealed_next
    assert list(rule(make.notebook(asks, shows), Facts("03"))) == []
    for cells in ([asks], [asks, other, shows], [asks, make.prose("Text."), shows]):
        assert "must reveal '03-x'" in next(rule(make.notebook(*cells), Facts("03")))


def test_links_lead_somewhere(make, tmp_path):
    (tmp_path / "04_next.ipynb").touch()
    text = (
        "[a](04_next.ipynb) [b](04_next.ipynb#part) [c](https://x.org) [d](#here) `[e](gone.ipynb)` [f](05_gone.ipynb)"
    )
    assert lesson_lint.broken_links(make.notebook(make.prose(text)), tmp_path) == [
        f"cell 0 ({text[:50]}): the link to '05_gone.ipynb' leads nowhere"
    ]


@pytest.mark.parametrize(
    ("bound", "is_written_out"),
    [("3", True), ("2**0.5 + n", True), ("(1, 2)", True), ("x[0]", False), ("0.8 * f(x)", False), ("x.y", False)],
)
def test_a_bound_is_not_measured(make, bound, is_written_out):
    notebook = lesson(make, computed=f'{COMPUTED}\nclaim("It is so", 2, at_most={bound})')
    found = [problem for problem in lesson_lint.problems(notebook, FACTS) if "written out" in problem]
    assert bool(found) is not is_written_out
