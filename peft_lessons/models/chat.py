"""A question to a chat model, and its answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from peft_lessons.models.decoder import Decoder, generate_steps
from peft_lessons.models.tokenizer import Tokenizer

HALF = "\N{REPLACEMENT CHARACTER}"  # what a character decodes to while some of its bytes are in a later token

Listener = Callable[[str], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def prompt_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """Return the token ids of a conversation that has one question in it, up to where the answer begins."""
    return tokenizer.encode(tokenizer.chat([{"role": "user", "content": question}]))


def answer(model: Decoder, tokenizer: Tokenizer, question: str, max_new_tokens: int = 32) -> str:
    """Return the model's likeliest answer, token by token, cut after `max_new_tokens`. `listening` hears it grow."""
    text, listener = "", _listener.get()
    if listener is not None:
        listener(text)
    for text in answer_steps(model, tokenizer, question, max_new_tokens):
        if listener is not None and text:
            listener(text)
    return text


def answer_steps(model: Decoder, tokenizer: Tokenizer, question: str, max_new_tokens: int = 32) -> Iterator[str]:
    """Yield what `answer` returns, as far as it is known after each token: "The", "The capital", "The capital of", …"""
    ids = torch.tensor([prompt_ids(tokenizer, question)])
    new, text = [], ""
    for step in generate_steps(model, ids, max_new_tokens, eos_id=tokenizer.eos_id):
        new.append(int(step))
        text = tokenizer.decode(new).strip()
        if not text.endswith(HALF):
            yield text
    if text.endswith(HALF):
        yield text


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `answer` call `listener` inside this context: with "" when it begins, then its text so far as it grows."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
