"""The field for questions: what is asked is answered, even if it is equal, and answers are seen while they grow."""

import threading
import time

import pytest
from javascript import run_node_tests

from peft_lessons.classroom.widgets.compare import LONGEST, compare
from peft_lessons.models import chat


def both(question):
    return {"off": f" {question.lower()} ", "on": question.upper()}


def tell(widget, question, number, **more):
    """As a browser does."""
    widget.set_state({"asked": {"number": number, "question": question, **more}})


def ask(widget, question, number):
    """Ask, wait for the whole answer, and return all that the browser is sent."""
    sent = []
    widget.observe(lambda change: sent.append(change["new"]), "answer")
    tell(widget, question, number)
    until(lambda: sent and sent[-1]["done"])
    widget.unobserve_all("answer")
    return sent


def until(true):
    give_up = time.monotonic() + 20
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.fixture
def speaker(monkeypatch):
    """`answer` with a model that says the question's letters."""

    def steps(model, tokenizer, question, max_new_tokens):
        for end in range(1, len(question) + 1):
            yield question[:end]

    monkeypatch.setattr(chat, "answer_steps", steps)
    return lambda question: chat.answer(None, None, question)


def test_forms_without_a_browser():
    widget = compare(both, question="Why <so>?", label="Ask it")
    data = widget._repr_mimebundle_()[0]
    assert data["text/plain"] == repr(widget) == "Ask it: Why <so>?\n  off: why <so>?\n  on: WHY <SO>?"
    assert "<caption>Ask it: Why &lt;so&gt;?</caption>" in data["text/html"]
    assert '<th scope="row">on</th><td style="text-align: left">WHY &lt;SO&gt;?</td>' in data["text/html"]
    ask(widget, "Else?", 1)
    assert widget._repr_mimebundle_()[0]["text/plain"] == data["text/plain"], "what a stored notebook shows stays"


@pytest.mark.parametrize("question", ["Why?", "Why? ", " How?", "Why?"])
def test_every_question_is_answered(question):
    widget = compare(lambda asked: {"one": "always the same"}, question="Why?")
    for number in (1, 2):
        begun, answer = ask(widget, question, number)
        assert (begun["number"], begun["rows"], begun["done"]) == (number, [], False), "a sign of life"
        assert answer == {
            "number": number,
            "question": question.strip(),
            "rows": [["one", "always the same"]],
            "done": True,
        }


def test_a_blank_and_a_long_question():
    widget = compare(both, question="Why?")
    assert [answer["rows"] for answer in ask(widget, "  ", 1)] == [[]]
    assert len(ask(widget, "x" * 2 * LONGEST, 2)[-1]["rows"][0][1]) == LONGEST


def test_answers_are_seen_while_they_grow(speaker):
    def twice(question):
        off = speaker(question)
        return {"off": off, "on": speaker(question)}

    widget = compare(twice, question="a")
    sent = ask(widget, "no", 1)
    assert [answer["rows"] for answer in sent] == [
        [],
        [["off", ""]],
        [["off", "n"]],
        [["off", "no"]],
        [["off", "no"], ["on", ""]],
        [["off", "no"], ["on", "n"]],
        [["off", "no"], ["on", "no"]],
        [["off", "no"], ["on", "no"]],
    ]
    assert [answer["done"] for answer in sent] == [False] * 7 + [True]
    assert {answer["number"] for answer in sent} == {1}
    assert speaker("a") == "a", "nobody listens any more"


def test_an_error_is_shown_and_the_next_question_is_answered(speaker):
    def fragile(question):
        text = speaker(question)
        if question == "bad":
            raise ArithmeticError("no answer")
        return {"one": text}

    widget = compare(fragile, question="a")
    last = ask(widget, "bad", 1)[-1]
    assert (last["rows"], last["done"]) == ([["error", "ArithmeticError: no answer"]], True)
    assert ask(widget, "b", 2)[-1]["rows"] == [["one", "b"]]


class Slow:
    """Answers letter by letter, as often as `step` is called, and notes when the model begins and ends."""

    def __init__(self, monkeypatch):
        self.steps, self.log = threading.Semaphore(0), []

        def steps(model, tokenizer, question, max_new_tokens):
            self.log.append(f"begins {question}")
            try:
                for end in range(1, len(question) + 1):
                    assert self.steps.acquire(timeout=20)
                    yield question[:end]
            finally:
                self.log.append(f"ends {question}")

        monkeypatch.setattr(chat, "answer_steps", steps)

    def step(self, times=1):
        self.steps.release(times)

    def __call__(self, question):
        return {"one": chat.answer(None, None, question)}


@pytest.fixture
def slow(monkeypatch):
    slow = Slow(monkeypatch)
    slow.step()
    slow.widget = compare(slow, question="a")
    slow.log.clear()
    return slow


def test_a_new_question_ends_the_answer_to_the_last(slow):
    """Its model is free for the next, one at a time, and nothing of the old answer comes after the new question."""
    sent = []
    slow.widget.observe(lambda change: sent.append(change["new"]), "answer")
    tell(slow.widget, "long ago", 1)
    slow.step()
    until(lambda: sent[-1]["rows"] == [["one", "l"]])
    tell(slow.widget, "no", 2)
    assert sent[-1]["rows"] == [] and sent[-1]["number"] == 2
    slow.step(3)
    until(lambda: sent[-1]["done"])
    assert sent[-1] == {"number": 2, "question": "no", "rows": [["one", "no"]], "done": True}
    assert slow.log == ["begins long ago", "ends long ago", "begins no", "ends no"]
    assert [answer["number"] for answer in sent] == sorted(answer["number"] for answer in sent)


def test_a_stopped_answer_keeps_what_was_said(slow):
    sent = []
    slow.widget.observe(lambda change: sent.append(change["new"]), "answer")
    tell(slow.widget, "long ago", 1)
    slow.step(2)
    until(lambda: sent[-1]["rows"] == [["one", "lo"]])
    tell(slow.widget, "long ago", 1, stop=True)
    assert sent[-1] == {"number": 1, "question": "long ago", "rows": [["one", "lo"]], "done": True}
    slow.step()
    until(lambda: slow.log == ["begins long ago", "ends long ago"])
    assert len(sent) == 5 and sent[-1]["done"], "and nothing follows"
    slow.step(1)
    assert ask(slow.widget, "b", 2)[-1]["rows"] == [["one", "b"]]
    tell(slow.widget, "b", 2, stop=True)  # too late: it has ended
    assert slow.widget.answer["rows"] == [["one", "b"]]


def test_a_question_is_needed():
    with pytest.raises(ValueError, match="question to start with"):
        compare(both, question=" ")
    for wrong in ("Why?", ["Why?", " "], [1]):
        with pytest.raises(ValueError, match="must be a list of questions"):
            compare(both, question="Who?", suggestions=wrong)


def in_the_browser(**more):
    state = compare(both, question="Who?", **more).get_state()
    return {
        "esm": state["_esm"],
        "state": {name: state[name] for name in ("asked", "answer", "label", "suggestions")},
    }


def test_a_field_in_the_browser(tmp_path):
    run_node_tests("compare.test.js", in_the_browser(suggestions=["When?", "Where <to>?"]), tmp_path)


def test_a_page_without_jupyter(tmp_path):
    case = {
        "shows": ["Ask", "Who?", "WHO?"],
        "press": [".peft-offers button"],
        "then": {"asked": {"number": 1, "question": "When?"}},
        "showsThen": ["When?", "Asking"],
    }
    run_node_tests("plain.test.js", in_the_browser(suggestions=["When?"]) | case, tmp_path)
