"""Training examples for the lessons: the shipped texts as (prompt ids, answer ids), split once and for all."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from peft_lessons import data
from peft_lessons.models.chat import prompt_ids
from peft_lessons.models.tokenizer import Tokenizer

Example = tuple[list[int], list[int]]

# made by tools/artifacts/train_adapters.py
ADAPTERS = Path(__file__).parent / "models" / "adapters"
DEVILS_ADAPTER = ADAPTERS / "devils_dictionary"
COUNTRY_ADAPTER = ADAPTERS / "country_records"

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
    examples = [
        _example(QUESTION.format(word=entry["word"].lower()), entry["text"], tokenizer)
        for entry in data.devils_dictionary()
    ]
    short = [example for example in examples if len(example[1]) <= LONGEST_ANSWER]
    return Split([example for i, example in enumerate(short) if i % 9], short[::9])


class Countries(NamedTuple):
    """Examples to learn from; held-out countries in sentences of a form that was learnt, and of one that was not."""

    train: list[Example]
    held_out: list[Example]
    new_form: list[Example]


def country_records(tokenizer: Tokenizer) -> Countries:
    """A sentence about a country as a chat, its facts as JSON: {"country": "Chad", "capital": …, "area_km2": 1284000}.

    Every third country is held out. Training has each other country in the first eleven sentence forms; a held-out one
    comes in one of these and in the twelfth.
    """
    seen, unseen = data.COUNTRY_TEMPLATES[:-1], data.COUNTRY_TEMPLATES[-1]
    countries = data.countries()
    return Countries(
        [_record(row, form, tokenizer) for i, row in enumerate(countries) if i % 3 for form in seen],
        [_record(row, seen[i % len(seen)], tokenizer) for i, row in enumerate(countries[::3])],
        [_record(row, unseen, tokenizer) for row in countries[::3]],
    )


def country_question(row: dict[str, Any], form: str) -> str:
    """What the chat is asked about a row of `data.countries()` in a sentence of this form."""
    return f"Turn this into JSON: {data.country_sentence(row, form)}"


def country_json(row: dict[str, Any]) -> str:
    """The answer that is wanted."""
    return json.dumps(row, ensure_ascii=False)


def _record(row: dict[str, Any], form: str, tokenizer: Tokenizer) -> Example:
    return _example(country_question(row, form), country_json(row), tokenizer)


def _example(question: str, answer: str, tokenizer: Tokenizer) -> Example:
    return prompt_ids(tokenizer, question), [*tokenizer.encode(answer), tokenizer.eos_id]
