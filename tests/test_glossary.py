"""The glossary: complete, in the lessons' own words, and shown where a lesson first uses a term."""

import re
from pathlib import Path

import pytest
from javascript import run_node_tests

from peft_lessons.jupyter import server
from peft_lessons.lessons.glossary import Term, glossary
from tools.lessons.notebooks import sources

SCRIPT = server.HERE / "labextensions/peft-lessons-page/static/glossary.js"


def test_the_script(tmp_path: Path) -> None:
    run_node_tests("glossary.test.js", {"script": SCRIPT.read_text(encoding="utf-8")}, tmp_path)


def test_no_form_means_two_things() -> None:
    forms = [form.lower() for term in glossary() for form in (term.name, *term.forms)]
    assert len(forms) == len(set(forms))


@pytest.fixture(scope="module")
def prose() -> str:
    texts = (re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL) for path in sources())
    return "\n".join(texts)


@pytest.mark.parametrize("term", glossary(), ids=lambda term: term.name)
def test_lessons_use_the_term_and_its_meaning_is_short(term: Term, prose: str) -> None:
    forms = "|".join(re.escape(form).replace("\\ ", r"\s+") for form in (term.name, *term.forms))
    assert re.search(rf"(?<![\w-])(?:{forms})(?![\w-])", prose, re.IGNORECASE), f"no lesson uses {term.name!r}"
    assert term.meaning.endswith(".")
    assert len(term.meaning.split()) <= 35
