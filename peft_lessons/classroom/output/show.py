"""Source code in a notebook: highlighted, legible in light and dark, kept when the notebook is stored."""

import html
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from IPython.display import display
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

HERE = Path(__file__).parent
EXAMPLES = re.compile(r'\n\n( *)Examples:\n.*?(?=\n\1""")', re.DOTALL)
ONE_LINE = re.compile(r'^( *)("""[^\n]+)\n\1"""$', re.MULTILINE)  # what may be left of such a docstring


def show(*objects: Any) -> None:
    """Display the source of functions, classes or modules of the package, one block each.

    The examples in docstrings are left out: they are for `help()`, and a lesson has its own.

    TypeError for anything that has no Python source, such as an instance: pass its class.
    """
    if not objects:
        raise TypeError("show() needs at least one function, class or module")
    for source in [source_of(obj) for obj in objects]:
        display(source)


def source_of(obj: Any) -> "Source":
    """Return the source of one function, class or module, with its name as the title."""
    try:
        code = inspect.getsource(obj)
    except (TypeError, OSError):
        raise TypeError(
            f"show() takes functions, classes and modules written in Python, got {_described(obj)}"
        ) from None
    module = inspect.getmodule(obj)
    name = getattr(obj, "__qualname__", obj.__name__)
    title = f"{name}, from {module.__name__}" if module is not None and module is not obj else name
    return Source(title, textwrap.dedent(ONE_LINE.sub(r'\1\2"""', EXAMPLES.sub("", code))))


def _described(obj: Any) -> str:
    return f"{obj.__name__}, which has none" if hasattr(obj, "__name__") else f"an instance of {type(obj).__name__}"


class Source:
    """A titled block of Python; its text form is the title and the number of lines."""

    def __init__(self, title: str, code: str) -> None:
        self.title = title
        self.code = code

    def __repr__(self) -> str:
        return f"{self.title}: {len(self.code.splitlines())} lines of Python"

    def _repr_html_(self) -> str:
        # Only kinds of token in the markup, colours in the style: an untrusted notebook drops both and stays legible.
        formatter = HtmlFormatter(nowrap=True, classprefix="py-")
        style = "".join((HERE / name).read_text(encoding="utf-8") for name in ("../widgets/theme.css", "show.css"))
        return (
            f'<style>{style}</style><figure class="peft-theme peft-source"><figcaption>{html.escape(self.title)}'
            f'</figcaption><pre tabindex="0">{highlight(self.code, PythonLexer(), formatter)}</pre></figure>'
        )
