"""Claims and facts hold exactly when they should, refuse what cannot be checked, and read the same everywhere."""

import math
import re

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from peft_lessons.classroom.output.cards import Card, inline_html
from peft_lessons.classroom.output.claims import ClaimError, Paragraph, claim, fact, say

NAN = float("nan")

HOLD = [
    (0.58, {"equals": 0.577, "within": 0.02}),
    (0.5, {"equals": 0.5, "within": 0}),
    (12288, {"equals": 12288}),
    (True, {"equals": True}),
    (torch.tensor(3), {"equals": 3}),
    (torch.tensor([[0.25]]), {"at_most": 0.25}),
    (np.float32(0.25), {"at_least": 0.25}),
    (np.array([7]), {"equals": np.int64(7)}),
    (torch.tensor(True), {"equals": True}),
    (1, {"between": (1, 2)}),
    (2.0, {"between": (1, 2)}),
    (math.inf, {"at_least": 100}),
    (math.inf, {"equals": math.inf, "within": 0}),
    (2**60 + 1, {"equals": 2**60 + 1}),
    (100, {"equals": 101, "within": 1}),
]

FAIL = [
    (0.6, {"equals": 0.577, "within": 0.02}),
    (0.55, {"equals": 0.577, "within": 0.02}),
    (math.nextafter(0.5, 1), {"equals": 0.5, "within": 0}),
    (12289, {"equals": 12288}),
    (False, {"equals": True}),
    (0.2500001, {"at_most": 0.25}),
    (0.2499999, {"at_least": 0.25}),
    (0.99, {"between": (1, 2)}),
    (2.01, {"between": (1, 2)}),
    (math.inf, {"at_most": 1e300}),
    (math.inf, {"equals": 1.0, "within": 1e300}),
    (2**60 + 1, {"equals": 2**60}),
    (NAN, {"equals": 0.5, "within": 0.1}),
    (NAN, {"at_most": math.inf}),
    (NAN, {"at_least": -math.inf}),
    (NAN, {"between": (-math.inf, math.inf)}),
    (torch.tensor(NAN), {"at_most": 1}),
]


@pytest.mark.parametrize(("measured", "bound"), HOLD)
def test_a_claim_that_holds_shows_a_line(measured, bound, capsys):
    assert claim("It is so", measured, **bound) is None
    out = capsys.readouterr().out
    assert re.fullmatch(r"✔ 1 (?:number|fact) checked\n  ✔ It is so\n    measured \S+; expected .+\n", out)


@pytest.mark.parametrize(("measured", "bound"), FAIL)
def test_a_claim_that_does_not_hold_raises_and_shows_nothing(measured, bound, capsys):
    with pytest.raises(ClaimError, match=r"this does not hold: 'It is so': measured \S+; expected .+ \(a paper\)$"):
        claim("It is so", measured, source="a paper", **bound)
    assert capsys.readouterr().out == ""
    assert issubclass(ClaimError, AssertionError)


@pytest.mark.parametrize(
    ("measured", "arguments", "error", "message"),
    [
        (0.5, {}, ValueError, "exactly one of .* got none"),
        (0.5, {"at_most": 1, "at_least": 0}, ValueError, "got at_most and at_least"),
        (0.5, {"equals": 0.5}, ValueError, "give within="),
        (1, {"equals": 1.0}, ValueError, "give within="),
        (1.0, {"equals": 1}, ValueError, "give within="),
        (0.5, {"at_most": 1, "within": 0.1}, ValueError, "nothing beside at_most"),
        (0.5, {"equals": 0.5, "within": -0.1}, ValueError, "at least 0 and finite, got -0.1"),
        (0.5, {"equals": 0.5, "within": math.inf}, ValueError, "at least 0 and finite"),
        (0.5, {"equals": 0.5, "within": NAN}, ValueError, "within is NaN"),
        (0.5, {"equals": NAN, "within": 0}, ValueError, "equals is NaN"),
        (0.5, {"at_most": NAN}, ValueError, "at_most is NaN"),
        (0.5, {"between": (2, 1)}, ValueError, "is empty"),
        (0.5, {"at_most": 1, "source": " "}, ValueError, "source is empty"),
        ("0.5", {"at_most": 1}, TypeError, "measured must be a number .* got str"),
        (None, {"at_most": 1}, TypeError, "got NoneType"),
        (1j, {"at_most": 1}, TypeError, "got complex"),
        (torch.zeros(2), {"at_most": 1}, TypeError, r"got Tensor of shape \(2,\)"),
        (np.zeros((0,)), {"at_most": 1}, TypeError, r"got ndarray of shape \(0,\)"),
        (0.5, {"at_most": "1"}, TypeError, "at_most must be a number"),
    ],
)
def test_a_claim_that_cannot_be_checked_is_refused(measured, arguments, error, message):
    with pytest.raises(error, match=message):
        claim("It is so", measured, **arguments)


@pytest.mark.parametrize("sentence", ["", "  ", None])
def test_a_claim_needs_a_sentence(sentence):
    with pytest.raises(ValueError, match="needs a sentence"):
        claim(sentence, 1, equals=1)


@pytest.mark.parametrize(
    ("measured", "bound", "facts"),
    [
        (0.577123, {"equals": 0.577, "within": 0.02}, "measured 0.5771; expected 0.577 ± 0.02"),
        (0.5, {"equals": 0.5, "within": 0}, "measured 0.5; expected exactly 0.5"),
        (12288, {"equals": 12288}, "measured 12,288; expected 12,288"),
        (101.5623, {"equals": 101.56, "within": 0.005}, "measured 101.562; expected 101.56 ± 0.005"),
        (101.2, {"equals": 101.25, "within": 0.25}, "measured 101.2; expected 101.25 ± 0.25"),
        (2.000132, {"equals": 2, "within": 0.0005}, "measured 2.0001; expected 2 ± 0.0005"),
        (12345.678, {"equals": 12345, "within": 1.0}, "measured 12346; expected 12,345 ± 1"),
        (57.68123, {"equals": 57.7, "within": 2}, "measured 57.68; expected 57.7 ± 2"),
        (100.5, {"equals": 2 / 3 * 151, "within": 50}, "measured 100.5; expected 100.7 ± 50"),
        (0.1 + 1e-11, {"equals": 0.1, "within": 1e-9}, "measured 0.1; expected 0.1 ± 1e-09"),
        (3.2e-7, {"equals": 0, "within": 1e-6}, "measured 3.2e-07; expected 0 ± 1e-06"),
        (0.1234567, {"equals": 0.1234567, "within": 0}, "measured 0.1234567; expected exactly 0.1234567"),
        (1.5e-7, {"at_most": 1e-6}, "measured 1.5e-07; expected at most 1e-06"),
        (30, {"at_least": 20.5}, "measured 30; expected at least 20.5"),
        (1.5, {"between": (1, 2)}, "measured 1.5; expected between 1 and 2"),
        (True, {"equals": True}, "measured yes; expected yes"),
    ],
)
def test_the_line_says_measured_and_expected(measured, bound, facts, capsys):
    claim("It is so", measured, source="arXiv:2106.09685 §4.1", **bound)
    kind = "fact" if measured is True else "number"
    assert capsys.readouterr().out == f"✔ 1 {kind} checked\n  ✔ It is so\n    {facts} (arXiv:2106.09685 §4.1)\n"


def test_a_failure_shows_the_digits_that_differ():
    with pytest.raises(ClaimError, match=r"measured 101\.566; expected 101\.56 ± 0\.005"):
        claim("It is so", 101.566, equals=101.56, within=0.005)
    with pytest.raises(ClaimError, match=r"measured 0\.5000000000000001; expected exactly 0\.5$"):
        claim("It is so", math.nextafter(0.5, 1), equals=0.5, within=0)


def test_only_the_measured_number_differs_between_machines(capsys):
    def sanitized(text: str) -> str:
        return re.sub(r"measured [-+0-9.,e]+", "measured N", text)

    claim("It is so", 0.57712, equals=0.577, within=0.02)
    first = capsys.readouterr().out
    claim("It is so", 0.57831, equals=0.577, within=0.02)
    second = capsys.readouterr().out
    assert first != second and sanitized(first) == sanitized(second)


def test_html_is_escaped_and_links_papers():
    shell = InteractiveShell.instance()
    try:
        assert shell
        with capture_output() as captured:
            claim("<script>alert(1)</script> is `x<y`", 1, equals=1, source="<b>arXiv:2106.09685</b>")
            shell.events.trigger("post_run_cell", None)
    finally:
        InteractiveShell.clear_instance()
    (output,) = captured.outputs
    page = output.data["text/html"]
    assert set(output.data) == {"text/plain", "text/html"}
    assert "<script" not in page and "<b>" not in page
    assert "<code>x&lt;y</code>" in page
    assert '<a href="https://arxiv.org/abs/2106.09685">arXiv:2106.09685</a>' in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a `b*c*d` e", "a <code>b*c*d</code> e"),
        ("so *much* better", "so <em>much</em> better"),
        ("**Passes** decide, **α.** So", "<strong>Passes</strong> decide, <strong>α.</strong> So"),
        ("2 ** 3 ** 4", "2 ** 3 ** 4"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("2*a*b", "2*a*b"),
        ('"<&>"', "&quot;&lt;&amp;&gt;&quot;"),
        ("`<i>`", "<code>&lt;i&gt;</code>"),
        ("*<i>*", "<em>&lt;i&gt;</em>"),
        ("an open ` stays", "an open ` stays"),
    ],
)
def test_markdown_light(text, expected):
    assert inline_html(text) == expected


def test_card_borders_are_visible_on_light_and_dark():
    from test_quiz import contrast

    for outcome in ("correct", "incorrect", "not attempted", "note"):
        page = Card(outcome, "t", ("line",))._repr_html_()
        colour = re.search(r"#[0-9a-f]{6}", page)[0]
        assert contrast(colour, "#ffffff") >= 3 and contrast(colour, "#16191d") >= 3
        assert "color:" not in page.replace("border", "") and "background" not in page


# Prose


@pytest.fixture
def shell():
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def shown(shell, code: str) -> list[str]:
    with capture_output() as captured:
        result = shell.run_cell(f"from peft_lessons.classroom import claim, fact, say\n{code}")
    assert result.success
    return [output.data["text/plain"] for output in captured.outputs]


def test_all_claims_of_a_cell_are_one_line_at_its_end(shell):
    (first,) = shown(shell, 'claim("a", 1, equals=1)\nsum([])\nclaim("b", 2.5, at_most=3)')
    assert first == (
        "✔ 2 numbers checked\n  ✔ a\n    measured 1; expected 1\n  ✔ b\n    measured 2.5; expected at most 3"
    )
    assert shown(shell, "sum([])") == [], "nothing is left for the next cell"
    assert shown(shell, 'claim("c", True, equals=True)')[0].startswith("✔ 1 fact checked")


def test_what_held_before_a_failure_is_still_shown(shell):
    with capture_output() as captured:
        shell.run_cell('from peft_lessons.classroom import claim\nclaim("a", 1, equals=1)\nclaim("b", 1, equals=2)')
    assert any("✔ 1 number checked\n  ✔ a" in output.data.get("text/plain", "") for output in captured.outputs)
    assert "ClaimError" in captured.stdout


def test_say_writes_the_measured_numbers_into_its_text(shell):
    code = """say("It has {n} weights; `x` takes {t:.2f} s, {share} of it.",
        n=fact(12288, equals=12288, source="3 · 4096"), t=fact(1.23456, within=0.1, equals=1.25),
        share=fact(0.5, at_most=1))"""
    (text,) = shown(shell, code)
    assert text.splitlines() == [
        "It has 12,288 weights; `x` takes ≈ 1.23 s, ≈ 0.500 of it.",
        "✔ 3 numbers checked",
        "  ✔ n = 12,288",
        "    measured 12,288; expected 12,288 (3 · 4096)",
        "  ✔ t = ≈ 1.23",
        "    measured 1.235; expected 1.25 ± 0.1",
        "  ✔ share = ≈ 0.500",
        "    measured 0.5; expected at most 1",
    ]


def test_say_is_html_that_every_page_shows():
    text = "Half of `a<b` is {x}.\n\n- one\n- two, arXiv:2106.09685"
    page = Paragraph(text, {"x": fact(0.5, equals=0.5, within=0, source='a "paper"')})._repr_html_()
    assert "<code>a&lt;b</code>" in page and "<ul><li>one</li><li>two, <a href=" in page
    assert (
        '<abbr class="peft-number" title="measured 0.5; expected exactly 0.5 (a &quot;paper&quot;)">0.5</abbr>' in page
    )
    assert page.count("<details") == 1, "an inline one breaks the line where a page strips its style"


@pytest.mark.parametrize(
    ("text", "facts", "message"),
    [
        ("It is {x}.", {}, r"the text names \['x'\] that is not given; given and not named: \[\]"),
        ("It is so.", {"x": 1}, r"names no number that is not given; given and not named: \['x'\]"),
        ("It is {x}.", {"x": 1, "y": 2}, r"\['y'\]"),
    ],
)
def test_text_and_numbers_of_say_belong_together(text, facts, message):
    with pytest.raises(ValueError, match=message):
        say(text, **{name: fact(value, equals=value) for name, value in facts.items()})


def test_say_stops_a_lesson_whose_number_is_wrong():
    with pytest.raises(ClaimError, match=r"this does not hold: 'It is \{x\}.': x measured 3; expected 4 \(2 · 2\)"):
        say("It is {x}.", x=fact(3, equals=4, source="2 · 2"))
