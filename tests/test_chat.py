"""An answer token by token: what is shown on the way, and that it ends as the whole."""

import torch

from peft_lessons.models import chat
from peft_lessons.models.chat import answer, answer_steps, listening


class Bytes:
    """A tokenizer whose ids are UTF-8 bytes, so that one character may take several tokens."""

    eos_id = None

    def chat(self, messages):
        return messages[0]["content"]

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


def says(monkeypatch, text: bytes) -> None:
    steps = [torch.tensor([[byte]]) for byte in text]
    monkeypatch.setattr(chat, "generate_steps", lambda model, ids, count, **options: iter(steps[:count]))


def test_an_answer_grows_by_whole_characters(monkeypatch) -> None:
    says(monkeypatch, " né ".encode())
    assert list(answer_steps(None, Bytes(), "What?")) == ["", "n", "né", "né"]
    assert answer(None, Bytes(), "What?") == "né"


def test_an_answer_ends_after_32_tokens_or_as_many_as_one_says(monkeypatch) -> None:
    says(monkeypatch, b"a" * 100)
    assert len(answer(None, Bytes(), "What?")) == len(list(answer_steps(None, Bytes(), "What?"))) == 32
    assert len(answer(None, Bytes(), "What?", max_new_tokens=7)) == 7


def test_an_answer_that_is_cut_within_a_character(monkeypatch) -> None:
    says(monkeypatch, "né".encode()[:-1])
    assert list(answer_steps(None, Bytes(), "What?")) == ["n", "n\N{REPLACEMENT CHARACTER}"]
    says(monkeypatch, b"")
    assert answer(None, Bytes(), "What?") == ""


def test_a_listener_hears_where_an_answer_begins_and_each_time_it_grows(monkeypatch) -> None:
    heard: list[str] = []
    with listening(heard.append):
        for text in (b" a b", b"c"):
            says(monkeypatch, text)
            answer(None, Bytes(), "What?")
    answer(None, Bytes(), "What?")
    assert heard == ["", "a", "a", "a b", "", "c"]
