"""The field for questions: what is asked is answered, even if it is equal, and answers are seen while they grow."""

import pytest
from javascript import run_node_tests

from peft_lessons.classroom.widgets.compare import LONGEST, compare
from peft_lessons.models import chat


def both(question):
    return {"off": f" {question.lower()} ", "on": question.upper()}


def ask(widget, question, number):
    """As a browser does; returns all that it is sent."""
    sent = []
    widget.observe(lambda change: sent.append(change["new"]), "answer")
    widget.set_state({"asked": {"number": number, "question": question}})  # the front end's way in
    widget.unobserve_all("answer")
    return sent


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
        (answer,) = ask(widget, question, number)
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
        [["off", ""]],
        [["off", "n"]],
        [["off", "no"]],
        [["off", "no"], ["on", ""]],
        [["off", "no"], ["on", "n"]],
        [["off", "no"], ["on", "no"]],
        [["off", "no"], ["on", "no"]],
    ]
    assert [answer["done"] for answer in sent] == [False] * 6 + [True]
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


def test_a_question_is_needed():
    with pytest.raises(ValueError, match="question to start with"):
        compare(both, question=" ")


def test_in_the_browser(tmp_path):
    state = compare(both, question="Who?").get_state()
    shown = {name: state[name] for name in ("asked", "answer", "label")}
    run_node_tests("compare.test.js", {"esm": state["_esm"], "state": shown}, tmp_path)
