"""A question to a chat model, and its answer."""

import torch

from peft_lessons.models.decoder import Decoder, generate
from peft_lessons.models.tokenizer import Tokenizer


def prompt_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """The token ids of a conversation that has one question in it, up to where the answer begins."""
    return tokenizer.encode(tokenizer.chat([{"role": "user", "content": question}]))


def answer(model: Decoder, tokenizer: Tokenizer, question: str, max_new_tokens: int = 32) -> str:
    """The model's likeliest answer, token by token, cut after `max_new_tokens`."""
    ids = torch.tensor([prompt_ids(tokenizer, question)])
    return tokenizer.decode(generate(model, ids, max_new_tokens, eos_id=tokenizer.eos_id)[0]).strip()
