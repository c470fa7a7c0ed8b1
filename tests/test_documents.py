"""What README and docs say of the course is so: the lessons and their minutes, the methods, links to files."""

import json
import re
from pathlib import Path

import pytest

from peft_lessons.lessons.catalogue import lessons
from peft_lessons.methods.registry import METHODS
from tools.artifacts import method_table
from tools.browser import readme_pictures
from tools.site.reference import API, methods_page

ROOT = Path(__file__).resolve().parents[1]

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def rows(path: Path) -> list[list[str]]:
    """The cells of every table's rows in a Markdown file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_readme_lists_the_lessons_with_their_minutes():
    listed = [(row[0], row[1], *row[-2:]) for row in rows(ROOT / "README.md") if row[0].isdigit()]
    assert listed == [
        (
            lesson.number,
            f"[{lesson.title}](notebooks/{lesson.notebook})",
            f"{lesson.reading_minutes} min",
            f"{lesson.running_minutes} min",
        )
        for lesson in lessons()
    ]


def test_the_table_of_methods_has_each_with_its_config_page_and_paper(monkeypatch):
    """All but what is measured, which `python -m tools.artifacts.method_table` does again."""
    monkeypatch.setattr(method_table, "compare", lambda method: [""] * 4)
    known = [method_table.row(method) for method in METHODS]
    listed = [row for row in rows(ROOT / "docs" / "methods.md") if row[0] not in ("method", "---")]
    assert [row[:7] for row in listed] == [[cell.strip() for cell in row.strip("|").split("|")][:7] for row in known]


INNER = {"files", "checks", "course"}  # what no reader of the library calls


def test_the_site_has_a_page_for_each_module_of_the_library():
    pages = " ".join([methods_page(), *(path.read_text(encoding="utf-8") for path in API.glob("*.md"))])
    named = set(re.findall(r"automodule:: peft_lessons\.(\S+)", pages))
    package = ROOT / "peft_lessons"
    rooms = [package / "methods", package / "accounting", package / "models"]
    modules = {f"{room.name}.{path.stem}" for room in rooms for path in room.glob("[!_]*.py")} - {"models.gguf"}
    modules |= {path.stem for path in package.glob("[!_]*.py")} - {"cli", "doctor"} - INNER
    assert modules - named == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
    targets = re.findall(r"\]\((?![a-z]+:)([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_pictures_are_of_the_lessons_as_they_are():
    """A test cannot look at a picture, but it can say that the text which it shows has changed."""
    taken = json.loads(readme_pictures.TAKEN.read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(docs/([\w.]+\.(?:png|gif))\)", readme)) == taken.keys() == readme_pictures.SHOWN.keys()
    old = [name for name, lesson in readme_pictures.SHOWN.items() if taken[name] != readme_pictures.text_of(lesson)]
    assert old == [], "run python -m tools.browser.readme_pictures, and look at them"
