"""Notebooks in a few words, for tests of rules that need broken ones."""

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output


class Make:
    """Cells and notebooks; code cells count themselves as run in the order in which they are made."""

    def __init__(self) -> None:
        self.runs = 0

    def code(self, source: str, *outputs: NotebookNode, **metadata: object) -> NotebookNode:
        self.runs += 1
        return new_code_cell(source, execution_count=self.runs, outputs=list(outputs), metadata=metadata)

    @staticmethod
    def shown(**data: str) -> NotebookNode:
        """A displayed output; `text_plain="…"` stands for text/plain, `image_svg_xml` for image/svg+xml."""
        kinds = {"image_svg_xml": "image/svg+xml"}
        return new_output("display_data", {kinds.get(k, k.replace("_", "/", 1)): v for k, v in data.items()})

    @staticmethod
    def printed(text: str, name: str = "stdout") -> NotebookNode:
        return new_output("stream", name=name, text=text)

    @staticmethod
    def raised(name: str, value: str) -> NotebookNode:
        return new_output("error", ename=name, evalue=value, traceback=[f"{name}: {value}"])

    def card(self, sentence: str, expected: str, measured: str = "0.5", source: str = "") -> NotebookNode:
        """A cell that claims something, with the line that `claim` leaves."""
        facts = f"measured {measured}; expected {expected}" + (f" ({source})" if source else "")
        shown = f"✔ 1 number checked\n  ✔ {sentence}\n    {facts}"
        return self.code(f"claim({sentence!r}, value)", self.shown(text_plain=shown))

    @staticmethod
    def prose(text: str) -> NotebookNode:
        return new_markdown_cell(text)

    @staticmethod
    def notebook(*cells: NotebookNode, **metadata: object) -> NotebookNode:
        return nbformat.from_dict(new_notebook(cells=list(cells), metadata=metadata))


@pytest.fixture
def make() -> Make:
    return Make()
