"""The glossary: the course's terms, and what each means in one sentence.

The terms stand in `glossary.toml`. JupyterLab and the site mark the first place where a lesson uses a term and show its
meaning there: `jupyter/labextensions/peft-lessons-page/static/glossary.js`.
"""

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Term:
    """A term, the other forms in which lessons write it, such as its plural, and its meaning."""

    name: str
    meaning: str
    forms: tuple[str, ...] = ()


def glossary() -> list[Term]:
    """Return all terms, in the order of the alphabet.

    >>> [term.meaning for term in glossary() if term.name == "learning rate"]
    ['How far one step of the optimizer goes.']
    """
    path = Path(__file__).with_name("glossary.toml")
    terms = [Term(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["term"]]
    return sorted(terms, key=lambda term: term.name.lower())


def as_data() -> list[dict[str, Any]]:
    """Return the terms as a page's script takes them."""
    return [asdict(term) for term in glossary()]
