"""The small cards that exercises and claims leave in a notebook, and the markdown-light that all classroom text is in.

A card has a text form and an HTML form, both free of addresses, times and paths, so that nbval can compare them. The
HTML takes its text colour from the page, hence it is legible in every theme, and says its outcome with a sign and the
shape of its border as well as with colour.
"""

import html
import re
from dataclasses import dataclass

# sign, border style, border colour: at least 3:1 (WCAG 2.2, 1.4.11) on white and on near-black alike.
OUTCOMES = {
    "correct": ("✔", "solid", "#1f8a55"),
    "incorrect": ("✘", "dashed", "#c9503c"),
    "not attempted": ("○", "dotted", "#7a7f87"),
    "note": ("·", "solid", "#7a7f87"),
}

# How an output's HTML begins: of one that is folded away JupyterLab shows the first line that is not empty.
UNSEEN = " \n"

_MARKUP = re.compile(
    r"`(?P<code>[^`]+)`|(?<![\w*])\*\*(?P<strong>[^*\s](?:[^*]*[^*\s])?)\*\*(?![\w*])"
    r"|(?<![\w*])\*(?P<em>[^*\s](?:[^*]*[^*\s])?)\*(?![\w*])"
)
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}(?:v\d+)?)")


def inline_html(text: str) -> str:
    """HTML of a markdown-light text: `code`, *em* and **strong**; all else is escaped, formulas are plain unicode."""
    parts, end = [], 0
    for match in _MARKUP.finditer(text):
        parts.append(html.escape(text[end : match.start()]))
        tag, inner = next((tag, inner) for tag, inner in match.groupdict().items() if inner)
        parts.append(f"<{tag}>{html.escape(inner)}</{tag}>")
        end = match.end()
    return "".join(parts) + html.escape(text[end:])


def link_arxiv(escaped: str) -> str:
    """Escaped HTML in which every arXiv identifier is a link to its abstract."""
    return _ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', escaped)


@dataclass(frozen=True)
class Card:
    """An outcome (a key of `OUTCOMES`), a title and lines of markdown-light text."""

    outcome: str
    title: str
    lines: tuple[str, ...] = ()

    def __repr__(self) -> str:
        sign = OUTCOMES[self.outcome][0]
        body = ["  " + line for part in self.lines for line in part.splitlines()]
        return "\n".join([f"{sign} {self.title}", *body])

    def _repr_html_(self) -> str:
        sign, border, colour = OUTCOMES[self.outcome]
        lines = "".join(
            f'<div style="white-space: pre-wrap">{link_arxiv(inline_html(line))}</div>' for line in self.lines
        )
        style = f"border-left: 4px {border} {colour}; padding: 2px 12px; margin: 4px 0; max-width: 56em"
        return f'{UNSEEN}<div style="{style}"><strong>{sign} {inline_html(self.title)}</strong>{lines}</div>'
