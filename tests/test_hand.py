"""Letters drawn by hand: checked, kept, found again the next day, handed over as pictures, and sent nowhere."""

import json
import sqlite3

import pytest
import torch
import traitlets
from javascript import run_node_tests

from peft_lessons.classroom import draw_letters, progress
from peft_lessons.classroom.progress import class_report, submission, taking_up
from peft_lessons.classroom.widgets import hand as module
from peft_lessons.classroom.widgets.hand import Hand, possible
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.models.letters import LETTERS
from peft_lessons.tasks import TRAINED_LETTERS, letters_of

STROKE = [[100, 60], [100, 360]]
PICTURE = "0" * 512 + "f" * 256 + "5" * 256
ONE = {"strokes": [STROKE], "pen": 36, "picture": PICTURE}


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(progress, "_warned", False)


def tell(hand, letters):
    """As a browser does."""
    hand.set_state({"drawn": {"number": hand.drawn["number"] + 1, "letters": letters}})


def test_what_is_drawn_is_handed_over_in_the_order_of_the_labels():
    hand = draw_letters("gBA")
    assert (hand.asked, hand.letters) == ("ABg", "")
    other = ONE | {"picture": "f" + "0" * 1023}
    tell(hand, {"g": ONE, "A": other})
    assert hand.letters == "Ag"
    pictures, labels = hand.pictures()
    assert pictures.shape == (2, 32, 32) and labels.tolist() == [0, LETTERS.index("g")]
    assert pictures[0, 0, 0] == 1 and pictures[0].flatten()[1:].unique().tolist() == [-1]
    expected = torch.tensor([-1, 1, 5 / 7.5 - 1]).repeat_interleave(torch.tensor([16, 8, 8]))
    assert torch.allclose(pictures[1], expected[:, None].expand(32, 32))  # 5 / 7.5 in fp32
    typeface = letters_of("dkg").train
    assert [(part.dtype, part.shape[1:]) for part in (pictures, labels)] == [(p.dtype, p.shape[1:]) for p in typeface]


def test_an_error_says_what_is_possible_when_nothing_is_drawn():
    with pytest.raises(ValueError, match=r"no letter is drawn yet: draw some of AB, or take a typeface"):
        draw_letters("AB").pictures()


@pytest.mark.parametrize(("letters", "words"), [("", "no letter is asked for"), ("A1", "only the letters A–Z and a–z")])
def test_only_letters_can_be_asked_for(letters, words):
    with pytest.raises(ValueError, match=words):
        draw_letters(letters)


def test_letters_are_there_the_next_day_as_they_were_left():
    hand = Hand("ABg")
    tell(hand, {"A": ONE, "B": ONE})
    assert hand.kept == {"number": 1, "notice": ""}
    second = ONE | {"strokes": [STROKE, [[5, 5]]]}
    tell(hand, {"B": ONE, "A": second})
    tell(hand, {"A": second})
    said = [(event.lesson, event.item, event.outcome) for event in progress.events(kind="hand")]
    assert said == [("hand", f"hand-{letter}", what) for letter, what in
                    [("A", "drawn"), ("B", "drawn"), ("A", "drawn"), ("B", "cleared")]]  # fmt: skip
    assert Hand("ABg").drawn == {"number": 0, "letters": {"A": second}}
    assert Hand("Bg").letters == ""
    assert Hand(LETTERS).letters == "A", "another lesson may ask for more of them"


def test_what_was_drawn_last_comes_last_since_its_pen_goes_on():
    hand = Hand("AB")
    tell(hand, {"B": ONE})
    tell(hand, {"B": ONE, "A": ONE | {"pen": 20}})
    tell(hand, {"A": ONE | {"pen": 20}, "B": ONE | {"pen": 60}})
    assert [one["pen"] for one in Hand("AB").drawn["letters"].values()] == [20, 60]


DAMAGED = [
    {"pen": 15}, {"pen": 81}, {"pen": 36.5}, {"pen": True}, {"pen": "36"}, {"pen": None},
    {"picture": "f" * 1023}, {"picture": "F" * 1024}, {"picture": "f" * 1024 + "\n"}, {"picture": 7}, {"picture": None},
    {"strokes": []}, {"strokes": [[]]}, {"strokes": "x"}, {"strokes": None}, {"strokes": [STROKE, 3]},
    {"strokes": [[[1, 2, 3]]]}, {"strokes": [[[1]]]}, {"strokes": [[1, 2]]}, {"strokes": [[[1.5, 2]]]},
    {"strokes": [[[-1, 2]]]}, {"strokes": [[[1, 513]]]}, {"strokes": [[["1", 2]]]}, {"strokes": [[[True, 2]]]},
    {"strokes": [[{"0": 1, "1": 2}]]}, {"strokes": [[[1, 1]] * 4001]}, {"strokes": [[[1, 1]]] * 4001}, {"more": 1},
]  # fmt: skip


@pytest.mark.parametrize("change", DAMAGED, ids=lambda change: str(change)[:40])
def test_what_cannot_be_drawn_is_refused_and_not_taken_from_the_store(change):
    assert possible(ONE) and possible(ONE | {"strokes": [[[0, 512]] * 4000]})
    hand = Hand("AB")
    tell(hand, {"A": ONE})
    with pytest.raises(traitlets.TraitError, match="AB cannot be drawn as"):
        tell(hand, {"A": ONE, "B": ONE | change})
    assert hand.letters == "A" and len(progress.events()) == 1
    progress.record("hand-A", "hand", "drawn", json.dumps(ONE | change))
    assert Hand("AB").drawn["letters"] == {"A": ONE}


@pytest.mark.parametrize(
    "drawn",
    [
        {}, {"number": 1}, {"number": "1", "letters": {}}, {"number": 1, "letters": []},
        {"number": 1, "letters": {"C": ONE}}, {"number": 1, "letters": {"AB": ONE}},
        {"number": 1, "letters": {"": ONE}}, {"number": 1, "letters": {"A": None}},
        {"number": 1, "letters": {}, "more": 1},
    ],
)  # fmt: skip
def test_a_page_that_sends_something_else_is_refused(drawn):
    hand = Hand("AB")
    with pytest.raises(traitlets.TraitError, match="AB cannot be drawn as"):
        hand.set_state({"drawn": drawn})
    assert hand.drawn == {"number": 0, "letters": {}}


@pytest.mark.parametrize("detail", ["", "{", "[]", "3", "null", "[" * 100_000, '{"strokes": NaN}'], ids=lambda d: d[:9])
def test_damaged_events_do_not_count(detail):
    tell(Hand("AB"), {"A": ONE})
    progress.record("hand-A", "hand", "drawn", detail)
    for item in ("hand", "hand-", "hand-AB", "hand-?", "A"):
        progress.record(item, "hand", "drawn", json.dumps(ONE))
    assert Hand("AB").drawn["letters"] == {"A": ONE}


def test_a_store_that_is_no_database_is_said_and_the_letters_are_there_for_today():
    progress.store_path().parent.mkdir()
    progress.store_path().write_bytes(b"nothing of ours" * 100)
    hand = Hand("AB")
    tell(hand, {"A": ONE})
    assert hand.letters == "A" and "not being saved" in hand.kept["notice"]
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(progress.store_path()).execute("SELECT * FROM events")


def test_a_drawing_is_handed_in_by_nobody(tmp_path):
    progress.record("01-goal", "quiz", "correct", "{}")
    before = submission.items(), progress.lesson_progress()
    tell(Hand("AB"), {"A": ONE})
    assert (submission.items(), progress.lesson_progress()) == before
    (tmp_path / "class").mkdir()
    file = tmp_path / "class" / "progress.json"
    submission.export(file)
    report = class_report.class_report(tmp_path / "class")
    page = (tmp_path / "class" / class_report.REPORT).read_text(encoding="utf-8")
    for text in (file.read_text(encoding="utf-8"), report, page):
        assert "hand-" not in text and PICTURE not in text and "strokes" not in text
    assert taking_up.take_up(file) == [] and Hand("AB").letters == "A"


def test_forms_without_a_browser_say_the_same_whatever_is_stored():
    before = Hand(TRAINED_LETTERS)._repr_mimebundle_()[0]
    assert before["text/plain"] == "Draw by hand: A B E G H M R S a b d e g h n o p s t"
    assert "needs a running kernel" in before["text/html"] and "typeface" in before["text/html"]
    hand = Hand(TRAINED_LETTERS)
    tell(hand, {"A": ONE})
    for one in (hand, Hand(TRAINED_LETTERS)):
        after = one._repr_mimebundle_()[0]
        assert all(after[form] == before[form] for form in ("text/plain", "text/html"))


def test_front_end(tmp_path):
    hand = Hand("ABa")
    data = {
        "script": source("parts.js", "ink.js", "hand.js"),
        "ink": source("ink.js"),
        "state": {name: getattr(hand, name) for name in ("asked", "drawn", "kept")},
        "side": module.SIDE,
        "pens": [module.THINNEST, module.BOLDEST],
        "most": module.MOST,
        "pixels": len(PICTURE),
    }
    run_node_tests("hand.test.js", data, tmp_path)
