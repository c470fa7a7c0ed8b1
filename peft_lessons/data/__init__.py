"""The texts and letters that the lessons learn from, shipped with the course.

Each function returns a plain structure, read from a gzipped file whose checksum must be right. `manifest()` says where
a set comes from, under which licence, and what was done to it; `tools/artifacts/make_data.py` made them all, and
`tools/artifacts/make_definitions.py` what a model has written, `tools/artifacts/make_letters.py` the letters.
"""

import gzip
import hashlib
import json
import zlib
from functools import cache
from importlib.resources import files
from typing import Any

AUSTEN_HELD_OUT = "Persuasion"  # the novel that the tiny GPT has never seen

# Sentences about a country. Lessons learn from the first eleven; the last one asks what was really learnt.
COUNTRY_TEMPLATES = (
    "{country} is a country in {region}. Its capital is {capital} and it covers {area} square kilometres.",
    "The capital of {country}, which lies in {region}, is {capital}; the country measures {area} square kilometres.",
    "{capital} is the capital of {country} ({region}, {area} square kilometres).",
    "With {area} square kilometres, {country} in {region} is governed from {capital}.",
    "On the map of {region} you find {country}, {area} square kilometres in size, with {capital} as its capital.",
    "Its government sits in {capital}: {country}, {region}, {area} square kilometres.",
    "They moved to {capital}, the capital of {country}. The country spans {area} square kilometres of {region}.",
    "Region: {region}. Country: {country}. Area: {area} square kilometres. Capital: {capital}.",
    "Of the states of {region}, {country} has an area of {area} square kilometres; {capital} is its capital.",
    "An area of {area} square kilometres, a capital called {capital}, a place in {region}: that is {country}.",
    "{country} belongs to {region}, its capital is called {capital}, and its land and water add up to {area} square "
    "kilometres.",
    "Travelling to {capital}? It is the capital of {country}, {area} square kilometres of {region}.",
)


def austen() -> dict[str, str]:
    """Jane Austen's six novels, text by title; a line is a paragraph."""
    return {row["title"]: row["text"] for row in _rows("austen")}


def jargon() -> list[dict[str, str]]:
    """Read the Jargon File 4.4.7, 2,232 entries: {"term": "kluge", "text": "kluge /klooj/ …"}, a paragraph a line."""
    return _rows("jargon")


def devils_dictionary() -> list[dict[str, str]]:
    """Read the Devil's Dictionary, 553 short entries: {"word": "YEAR", "text": "YEAR, n. A period of …"}."""
    return _rows("devils_dictionary")


def countries() -> list[dict[str, Any]]:
    """157 countries about 2015: {"country": …, "capital": …, "region": …, "area_km2": 643801}, by name."""
    return _rows("countries")


def country_sentence(row: dict[str, Any], template: str) -> str:
    """One of `COUNTRY_TEMPLATES` filled with a row of `countries()`; the area has commas: 643,801."""
    return template.format(**row, area=f"{row['area_km2']:,}")


def speeches() -> list[dict[str, Any]]:
    """Eleven State of the Union addresses: {"year": 1950, "speaker": …, "text": …}, without line breaks."""
    return _rows("speeches")


def definitions() -> list[dict[str, Any]]:
    """Read what SmolLM2 says to "Define the word ability.": 138 words, {"word": …, "answers": [two of them]}."""
    return _rows("definitions")


def typefaces() -> list[dict[str, Any]]:
    """Read typefaces that the drawing model has not seen: {"name": "dkg", "family": …, "kind": …, "letters": …}.

    `letters` holds a picture for each of A–Z and a–z: 32 × 32 hexadecimal digits, row by row, 0 paper and f ink.
    """
    return _rows("typefaces")


def peft_benchmark() -> list[dict[str, Any]]:
    """Read runs of Hugging Face's comparison of PEFT methods on Llama-3.2-3B: {"experiment": …, "accuracy": 47.84, …}.

    What each field means, the source with its commit and the licence stand in peft_benchmark.json under "about".
    """
    return json.loads((files(__name__) / "peft_benchmark.json").read_text(encoding="utf-8"))["rows"]


def manifest() -> list[dict[str, Any]]:
    """Read what is known about each set: name, rows, sha256 (of the text inside), title, source, licence, made."""
    return json.loads((files(__name__) / "manifest.json").read_text(encoding="utf-8"))


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _text(name).split("\n")[:-1]]


@cache
def _text(name: str) -> str:
    """Read the JSON lines of a set. Raises ValueError when the file is damaged."""
    file = files(__name__) / f"{name}.jsonl.gz"
    expected = next(entry["sha256"] for entry in manifest() if entry["name"] == name)
    try:
        content = gzip.decompress(file.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} is damaged: {error}. Mend it: git checkout -- peft_lessons/data") from error
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise ValueError(
            f"{file} is damaged: checksum {found[:12]}…, expected {expected[:12]}…. "
            "Mend it: git checkout -- peft_lessons/data"
        )
    return content.decode()
