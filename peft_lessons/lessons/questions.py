"""The question bank: one `questions.toml` a lesson, read and checked here.

A question has an id that begins with its lesson's number, a text, and options lettered a, b, c … in the file's order.
Every option says whether it is correct and what a student who chose it should hear. `evidence = true` marks the option,
at most one in a question, whose truth the lesson computes and says before it asks: `evidence(id, measured == 2)`.
Texts are markdown-light: `code`, *emphasis*, formulas in unicode.

    [[question]]
    id = "01-goal"
    text = "What is PEFT mainly for?"

    [[question.option]]
    text = "…"
    correct = false
    feedback = "…"
"""

import hashlib
import json
import re
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft_lessons.lessons.catalogue import folders

FILE = "questions.toml"
_ID = re.compile(r"\d\d-[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Option:
    """One answer: its letter, its text, whether it is the right one, and what is said to those who choose it."""

    letter: str
    text: str
    correct: bool
    feedback: str
    evidence: bool = False


@dataclass(frozen=True)
class Question:
    """A question with one right option."""

    id: str
    text: str
    options: tuple[Option, ...]

    @property
    def key(self) -> str:
        """The right option's letter."""
        return next(option.letter for option in self.options if option.correct)

    @property
    def digest(self) -> str:
        """Twelve hex digits that change with any text, feedback or key of the question."""
        canonical = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:12]


def files() -> dict[str, Path]:
    """Return the file of each lesson that asks questions, by the lesson's number."""
    return {number: path for number, folder in folders().items() if (path := folder / FILE).is_file()}


def load_question(question_id: str) -> Question:
    """Return the question with this id; raise ValueError that lists what there is when there is none."""
    lesson = question_id.split("-")[0]
    if lesson not in files():
        known = ", ".join(files())
        raise ValueError(f"no questions for lesson {lesson!r} of {question_id!r}; there are questions for {known}")
    questions = {question.id: question for question in load_lesson(lesson)}
    if question_id not in questions:
        raise ValueError(f"no question {question_id!r}; lesson {lesson} has {', '.join(questions)}")
    return questions[question_id]


def question_ids(lesson: str) -> list[str]:
    """Return the ids of a lesson's questions in the file's order; none when the lesson has no file."""
    return [question.id for question in load_lesson(lesson)] if lesson in files() else []


def load_lesson(lesson: str) -> list[Question]:
    """All questions of a lesson such as "01"; ValueError that names the file and the question for a malformed one."""
    path = files()[lesson]
    where = f"{path.parent.name}/{path.name}"
    with path.open("rb") as file:
        try:
            content = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{where}: {error}") from None
    _keys(where, content, {"question"})
    questions = [_question(where, table) for table in content["question"]]
    for question in questions:
        if not question.id.startswith(f"{lesson}-"):
            raise ValueError(f"{where}: the id {question.id!r} must begin with {lesson!r}")
    ids = [question.id for question in questions]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{where}: two questions have the same id among {', '.join(ids)}")
    return questions


def _question(file: str, table: dict[str, Any]) -> Question:
    where = f"{file}, question {table.get('id', '(without id)')!r}"
    _keys(where, table, {"id", "text", "option"})
    if not _ID.fullmatch(table["id"]):
        raise ValueError(f"{where}: an id looks like '01-goal': lesson, hyphen, lower-case words")
    options = []
    for letter, option in zip("abcdef", table["option"], strict=False):
        _keys(f"{where}, option {letter}", option, {"text", "correct", "feedback"}, {"evidence"})
        options.append(Option(letter, **option))
    if not 2 <= len(table["option"]) <= 6:
        raise ValueError(f"{where}: a question has 2 to 6 options, this one has {len(table['option'])}")
    if sum(option.correct is True for option in options) != 1:
        raise ValueError(f"{where}: exactly one option must have correct = true")
    marked = [option.letter for option in options if option.evidence]
    if len(marked) > 1:
        raise ValueError(f"{where}: at most one option may have evidence = true, not {', '.join(marked)}")
    for name in ("text", "feedback"):
        texts = [getattr(option, name).strip() for option in options]
        if not all(texts) or len(set(texts)) < len(texts):
            raise ValueError(f"{where}: every option needs a {name} of its own")
    return Question(table["id"], table["text"].strip(), tuple(options))


def _keys(
    where: str, table: dict[str, Any], required: set[str], optional: frozenset[str] | set[str] = frozenset()
) -> None:
    missing, unknown = required - table.keys(), table.keys() - required - optional
    if missing or unknown:
        problems = [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
        problems += [f"has the unknown {', '.join(sorted(unknown))}"] * bool(unknown)
        raise ValueError(f"{where}: {' and '.join(problems)}")
