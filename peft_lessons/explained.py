"""Docstrings of configs that explain every field where `help()` shows it, also those that a config inherits."""

import inspect
import re
from functools import cache
from textwrap import fill
from typing import Any

SECTIONS = ("Attributes", "Raises", "Examples")  # in this order, after the text
OWN: dict[type, str] = {}  # what each class itself says


def explain_fields(cls: type) -> None:
    """Complete the `Attributes:` of a config: its own fields, then those of its bases, each with its default.

    A class writes what its own fields are; `help()` of a config that derives from it says so, too.
    """
    OWN[cls] = inspect.cleandoc(cls.__doc__ or "")
    described: dict[str, str] = {}
    for base in cls.__mro__:
        for name, text in _fields(OWN.get(base, inspect.cleandoc(base.__doc__ or ""))).items():
            described.setdefault(name, text)
    entries = [_entry(name, text, getattr(cls, name, inspect.Parameter.empty)) for name, text in described.items()]
    parts = _parts(OWN[cls]) | ({"Attributes": "\n".join(entries)} if entries else {})
    sections = [f"{title}:\n{parts[title]}" for title in SECTIONS if title in parts]
    cls.__doc__ = "\n\n".join([parts[""], *sections]) + "\n"


def _parts(doc: str) -> dict[str, str]:
    """The text before all sections under "", and the sections under their titles."""
    parts: list[str] = re.split(rf"^({'|'.join(SECTIONS)}):\n", doc, flags=re.MULTILINE)
    return {"": parts[0].strip()} | {title: part.rstrip() for title, part in zip(parts[1::2], parts[2::2], strict=True)}


def _fields(doc: str) -> dict[str, str]:
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", _parts(doc).get("Attributes", ""), flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _entry(name: str, text: str, default: Any) -> str:
    if default is not inspect.Parameter.empty:
        text = f"{text} Default: {getattr(default, 'name', None) or repr(default)}."
    return _wrapped(f"{name}: {text}")


@cache  # configs inherit most of their entries
def _wrapped(entry: str) -> str:
    return fill(
        entry,
        width=112,
        initial_indent="    ",
        subsequent_indent="        ",
        break_long_words=False,
        break_on_hyphens=False,
    )
