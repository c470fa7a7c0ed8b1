"""The reference of the site, as far as it follows from what the package says of itself."""

from pathlib import Path

from peft_lessons.methods.registry import names_by_page

API = Path(__file__).resolve().parents[2] / "docs/site/api"


def methods_page() -> str:
    """Return the page of docs/site/api that has all methods, with each page of theirs where METHODS stands."""
    listed = "\n".join(f".. automodule:: peft_lessons.methods.{page}" for page in sorted(names_by_page()))
    return (API / "methods.md").read_text(encoding="utf-8").replace("METHODS", listed)
