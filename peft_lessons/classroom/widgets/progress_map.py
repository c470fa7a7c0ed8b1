"""The map: what is done of each lesson, where to go on, and, at the end, the certificate."""

import html
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import display

from peft_lessons.classroom.progress import certificate, guesses, lesson_progress
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.lessons.catalogue import lessons


class ProgressMap(anywidget.AnyWidget):
    """The lessons with the student's counts; it asks for fresh ones whenever it comes into view."""

    _esm = source("parts.js", "progress.js")
    _css = source("theme.css", "parts.css", "progress.css")
    rows: traitlets.List = traitlets.List().tag(sync=True)
    guesses: traitlets.Dict = traitlets.Dict().tag(sync=True)
    certificate: traitlets.Dict = traitlets.Dict().tag(sync=True)  # {"file": …, "said": …} once it was asked for

    def __init__(self) -> None:
        super().__init__(rows=lesson_progress(), guesses=guesses.improvement())
        self.on_msg(self._answer)

    def _answer(self, _widget: object, content: Any, _buffers: object) -> None:
        if content == "refresh":
            self.rows, self.guesses = lesson_progress(), guesses.improvement()
        elif isinstance(content, dict) and "certificate" in content:
            self.certificate = {}  # the same words once more are news, too
            self.certificate = self._certified(str(content["certificate"]))

    def _certified(self, name: str) -> dict[str, str]:
        """Write the certificate beside the lesson; what became of it, in words."""
        try:
            path = certificate.unused(Path.cwd())
            certificate.write(path, name)
        except (OSError, ValueError) as error:
            return {"file": "", "said": f"It could not be written: {error}"}
        return {"file": path.name, "said": f"Written to {path}. Open it in a browser to print it."}

    def __repr__(self) -> str:
        rows = [
            f"{row.number}  {row.title} · {row.reading_minutes} min to read, {row.running_minutes} min to run"
            for row in lessons()
        ]
        return "\n".join(["Lessons", *rows])

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle[0]["text/plain"] = repr(self)
            bundle[0]["text/markdown"] = _markdown_table()
        return bundle


def _markdown_table() -> str:
    rows = [
        f"| {row.number} | [{html.escape(row.title)}]({row.notebook}) | {row.reading_minutes} | {row.running_minutes} |"
        for row in lessons()
    ]
    return "\n".join(["| | Lesson | Minutes to read | Minutes to run |", "|---|---|---|---|", *rows])


def progress_map() -> None:
    """Display the lessons, the student's progress, and where to go on."""
    display(ProgressMap())
