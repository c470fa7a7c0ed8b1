"""Training examples: the shipped texts as (prompt ids, answer ids), split once and for all, and files of your own; and
the letters of typefaces, as pictures with labels."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from peft_lessons import data
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models.chat import prompt_ids
from peft_lessons.models.letters import LETTERS, letter_ids
from peft_lessons.models.tokenizer import Tokenizer

Example = tuple[list[int], list[int]]

# made by tools/artifacts/train_adapters.py
ADAPTERS = Path(__file__).parent / "models" / "adapters"
DEVILS_ADAPTER = ADAPTERS / "devils_dictionary"
COUNTRY_ADAPTER = ADAPTERS / "country_records"

# made by tools/artifacts/train_letter_adapters.py: one for each of three typefaces
LETTER_ADAPTERS = {
    name: ADAPTERS / f"letters_{folder}"
    for name, folder in {
        "Rufscript": "rufscript",
        "Dancing Script": "dancing_script",
        "Courier Prime": "courier_prime",
    }.items()
}
LETTER_LORA = LoRAConfig(rank=8, alpha=16, targets=("qkv", "proj", "up", "down", "modulation"))
TRAINED_LETTERS = "ABEGHMRSabdeghnopst"  # what an adapter learns a typeface from; the other 33 show what it learnt

LONGEST_ANSWER = 64  # tokens: a few long entries would make every batch slow
REJECTED = 36  # tokens of an answer that was too long
PAIRS, HELD_OUT_PAIRS = 64, 24
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


class Pair(NamedTuple):
    """A prompt, the answer that was chosen and the one that was rejected, as ids."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Preferences(NamedTuple):
    """Pairs to learn from, held-out ones, and prompts that are in neither, to see what is said."""

    train: list[Pair]
    held_out: list[Pair]
    prompts: list[list[int]]


def definition_pairs(tokenizer: Tokenizer, chosen: str) -> Preferences:
    """Pair definitions of 88 words, and ask for those of 28 others, all in prompts of one length.

    `chosen` "short": the first sentence of what SmolLM2 said itself, ended; rejected are the first 36 tokens of the
    same answer. "Bierce": the entry of the Devil's Dictionary; rejected is SmolLM2's answer, cut at 40. Each word
    has one pair, of its first answer with so many tokens and a sentence that ends before the last.

    Raises ValueError for another word.
    """
    if chosen not in ("short", "Bierce"):
        raise ValueError(f"chosen is 'short' or 'Bierce'; got {chosen!r}")
    entries = {entry["word"].lower(): entry["text"] for entry in data.devils_dictionary()}
    pairs, prompts = [], []
    for number, row in enumerate(data.definitions()):
        prompt = prompt_ids(tokenizer, QUESTION.format(word=row["word"]))
        if number % 5 == 0:
            prompts.append(prompt)
            continue
        for answer in row["answers"]:
            said, first = tokenizer.encode(answer), re.match(r"(?s).{10,}?[.!?](?=\s)", answer)
            if first and len(said) >= REJECTED:
                wanted, rejected = (first[0], said[:REJECTED]) if chosen == "short" else (entries[row["word"]], said)
                pairs.append(Pair(prompt, [*tokenizer.encode(wanted), tokenizer.eos_id], rejected))
                break
    return Preferences(pairs[:PAIRS], pairs[PAIRS : PAIRS + HELD_OUT_PAIRS], prompts)


class Countries(NamedTuple):
    """Examples to learn from; held-out countries in sentences of a form that was learnt, and of one that was not."""

    train: list[Example]
    held_out: list[Example]
    new_form: list[Example]


def country_records(tokenizer: Tokenizer) -> Countries:
    """Build chats: a sentence on a country, its facts as JSON: {"country": "Chad", "capital": …, "area_km2": 1284000}.

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
    """Write what the chat is asked about a row of `data.countries()` in a sentence of this form."""
    return f"Turn this into JSON: {data.country_sentence(row, form)}"


def country_json(row: dict[str, Any]) -> str:
    """Write the answer that is wanted."""
    return json.dumps(row, ensure_ascii=False)


def read_examples(path: str | Path, tokenizer: Tokenizer, longest: int) -> list[Example]:
    """Read the examples in a file of JSON lines, {"prompt": …, "answer": …} each, at most `longest` tokens together.

    A prompt is put into the model's chat template, if it has one. Blank lines and other keys are passed over.

    Raises:
        OSError: when the file cannot be read.
        ValueError: which names each line which is no example.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error
    examples, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            example = _example(*_prompt_and_answer(line), tokenizer)
            if (tokens := sum(map(len, example))) > longest:
                raise ValueError(f"{tokens:,} tokens, and the model takes at most {longest:,}")
            examples.append(example)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        listed = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise ValueError(f"{path}: {listed}")
    if not examples:
        raise ValueError(f'{path} holds no example; a line of it is such as {{"prompt": "2 + 2?", "answer": "4"}}')
    return examples


def _prompt_and_answer(line: str) -> tuple[str, str]:
    """Of one line of JSON. Raises ValueError for one that is no such object."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"a JSON object is wanted, got {found!r:.60}")
    for key in ("prompt", "answer"):
        if not isinstance(found.get(key), str):
            raise ValueError(
                f"{key!r} must be a string, got {found[key]!r:.60}" if key in found else f"{key!r} is missing"
            )
    if not found["answer"]:
        raise ValueError("'answer' is empty")
    return found["prompt"], found["answer"]


def _record(row: dict[str, Any], form: str, tokenizer: Tokenizer) -> Example:
    return _example(country_question(row, form), country_json(row), tokenizer)


def _example(question: str, answer: str, tokenizer: Tokenizer) -> Example:
    """Return the ids of a question, as a chat if the model is one for that, and of its answer with the end token."""
    prompt = prompt_ids(tokenizer, question) if tokenizer.chat_template else tokenizer.encode(question)
    return prompt, [*tokenizer.encode(answer), tokenizer.eos_id]


Pictures = tuple[Tensor, Tensor]  # (pictures, size, size) from −1, paper, to 1, ink, and their labels (pictures,)


class Letters(NamedTuple):
    """Letters of a typeface to learn from, and those that are held out."""

    train: Pictures
    held_out: Pictures


def typeface_names() -> list[str]:
    """The typefaces that the drawing model has not seen."""
    return [row["name"] for row in data.typefaces()]


def typeface(name: str) -> Tensor:
    """Read all letters of a typeface, in the order of `LETTERS`: (52, size, size) from −1, paper, to 1, ink.

    Raises ValueError for a name that is not there.
    """
    rows = {row["name"]: row["letters"] for row in data.typefaces()}
    if name not in rows:
        raise ValueError(f"no typeface is called {name!r}; there are {', '.join(rows)}")
    return pictures_in(rows[name][letter] for letter in LETTERS)


def pictures_in(digits: Iterable[str]) -> Tensor:
    """Read pictures that are written with a hexadecimal digit a pixel, row by row: (pictures, size, size) from −1,
    paper, to 1, ink."""
    pictures = torch.tensor([[int(digit, 16) for digit in one] for one in digits], dtype=torch.float32) / 7.5 - 1
    side = round(pictures.shape[1] ** 0.5)
    return pictures.unflatten(1, (side, side))


def digits_of(pictures: Tensor) -> list[str]:
    """Write pictures (pictures, size, size) as `pictures_in` reads them, each pixel at the nearest of 16 levels."""
    levels = ((pictures.clamp(-1, 1) + 1) * 7.5).round().int()
    return ["".join(f"{level:x}" for level in picture.flatten().tolist()) for picture in levels]


def letters_of(name: str, trained: str = TRAINED_LETTERS) -> Letters:
    """Split a typeface into the letters `trained` and all others.

    Raises ValueError for a name that is not there, and unless some letters are trained and some are not.
    """
    pictures = typeface(name)
    learnt, others = letter_ids(trained), letter_ids(letter for letter in LETTERS if letter not in trained)
    if not len(learnt) or not len(others):
        raise ValueError(f"some letters must be trained, and some held out; got {trained!r}")
    return Letters((pictures[learnt], learnt), (pictures[others], others))
