"""Training examples for the lessons: the shipped texts as (prompt ids, answer ids), split once and for all."""

from pathlib import Path
from typing import NamedTuple

from peft_lessons import data
from peft_lessons.models.chat import prompt_ids
from peft_lessons.models.tokenizer import Tokenizer

Example = tuple[list[int], list[int]]

# made by scripts/train_devils_adapter.py
DEVILS_ADAPTER = Path(__file__).parent / "models" / "adapters" / "devils_dictionary"

LONGEST_ANSWER = 64  # tokens: a few long entries would make every batch slow
QUESTION = "Define the word {word}."


class Split(NamedTuple):
    """Examples to learn from, and held-out ones that no adapter of this course has seen."""

    train: list[Example]
    held_out: list[Example]


def devils_definitions(tokenizer: Tokenizer) -> Split:
    """Definitions from the Devil's Dictionary as answers to a chat: "Define the word year." → "YEAR, n. A period …".

    Every ninth entry is held out. An answer ends with the tokenizer's end token and has at most 64 tokens.
    """
    return _split([(QUESTION.format(word=e["word"].lower()), e["text"]) for e in data.devils_dictionary()], tokenizer)


def _split(pairs: list[tuple[str, str]], tokenizer: Tokenizer) -> Split:
    examples = [
        (prompt_ids(tokenizer, question), [*tokenizer.encode(answer), tokenizer.eos_id]) for question, answer in pairs
    ]
    short = [example for example in examples if len(example[1]) <= LONGEST_ANSWER]
    held_out = short[::9]
    return Split([example for i, example in enumerate(short) if i % 9], held_out)
