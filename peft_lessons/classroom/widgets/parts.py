"""Where the widgets' scripts and style sheets come from: a widget's is put together from its own and what all share."""

from pathlib import Path

HERE = Path(__file__).parent


def source(*names: str) -> str:
    """Join files of this folder, one after the other: anywidget takes one script and one style sheet."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)
