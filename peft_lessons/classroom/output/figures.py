"""One look for every figure and table of the course, and one way to put them into a notebook.

A figure must serve whoever meets it: in JupyterLab or on a page, trusted or not, light or dark, with or without
sight or colour. Hence five colours that stay apart for every kind of colour vision and stand out on both backgrounds,
each with a line style and a marker of its own; no ground but the page's; a caption; and a description in words.
"""

import base64
import html
import io
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from peft_lessons.classroom.output.cards import UNSEEN, inline_html
from peft_lessons.classroom.output.colours import INK, PALETTE, PAPER, adaptive
from peft_lessons.classroom.output.labels import warn_of_overlaps

DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "12 4")  # SVG's stroke-dasharray, in pixels
MARKERS = ("o", "s", "^", "D", "v")  # matplotlib's names

STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(
        color=PALETTE,
        linestyle=["-" if not dash else (0, tuple(float(part) / 2 for part in dash.split())) for dash in DASHES],
        marker=MARKERS,
        # Set here, not by their own keys, which a plot made after `new_figure` would not see.
        linewidth=[2.0] * len(PALETTE),
        markersize=[5.0] * len(PALETTE),
        markevery=[0.1] * len(PALETTE),
    ),
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib; a browser writes in its own, which is seldom as wide
    "font.size": 11.0,
    "grid.alpha": 0.18,
    "legend.facecolor": PAPER,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "peft-lessons",
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), INK
    ),
}
# What `number` prints for a `Measured` value: the check of stored outputs replaces it.
MEASURED = re.compile(r"≈ −?[0-9][0-9.,]*(?:e[+−][0-9]+)?")
SHORT = 24  # characters: a table's column with a longer cell is read as sentences
LARGEST_SVG = 60_000  # bytes; what is drawn in a larger one becomes pixels, its words do not


def style() -> AbstractContextManager[None]:
    """Use the course's matplotlib settings as long as a `with` lasts; `new_figure` and `figure` do so themselves."""
    return matplotlib.rc_context(STYLE)


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 3.6, **subplots: Any
) -> tuple[Figure, Any]:
    """Make a matplotlib figure in the course's style, outside pyplot, so that nothing shows it twice.

    Args:
        rows, columns: the grid of axes.
        width, height: inches.
        subplots: passed on to `Figure.subplots` (`sharex`, `sharey`, …).

    Returns:
        The figure and its axes: one, or an array of them as `plt.subplots` returns.
    """
    with style():
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, **subplots)


def figure(fig: Figure, *, alt: str, caption: str) -> None:
    """Show a matplotlib figure as `<figure>` with a description and a caption, and close it.

    Args:
        fig: any matplotlib figure; `new_figure` gives one in the course's style.
        alt: what one sees, in words, for who does not see it. The text form of the output carries it too.
        caption: what it means; `code` and *emphasis* are marked up.

    Raises:
        TypeError: `fig` is not a figure (axes, say).
        ValueError: `alt` or `caption` is empty.
    """
    if not isinstance(fig, Figure):
        raise TypeError(
            f"figure() takes a matplotlib Figure, not {type(fig).__name__}; axes have theirs as axes.figure"
        )
    require_words(alt=alt, caption=caption)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(fig)
    clear_grid_over_images(fig)
    mark_every_point_of_few(fig)
    warn_of_overlaps(fig)
    image = image_tag(svg(fig), "image/svg+xml", alt)
    _show(
        html=f"<figure>{image}<figcaption>{inline_html(caption)}</figcaption></figure>",
        text=f"[Figure] {caption}\n{alt}",
    )


def table(rows: Iterable[Sequence[object]], header: Sequence[str], *, caption: str) -> None:
    """Show rows as a table with a caption, in HTML and in plain text. Numbers are printed by `number`.

    Raises:
        ValueError: a row has more or fewer cells than the header, or the caption is empty.
    """
    require_words(caption=caption)
    cells = [[number(cell) for cell in row] for row in rows]
    _show(html=html_table(cells, header, caption), text=f"{caption}\n\n{text_table(cells, header)}")


@dataclass(frozen=True)
class Measured:
    """A number, or a series of them, that comes from training or from a clock.

    Its last digits may differ on another machine. So it is printed with ≈ in front, which says this to the reader and
    lets the check of stored outputs replace it (`MEASURED`, with the spaces that follow).
    """

    values: Any


def number(value: object, digits: int = 3) -> str:
    """Format a value in the one way in which widgets and tables print it.

    Whole numbers in full with thousands separators, others to `digits` significant digits, `Measured` ones with ≈ in
    front; whatever is not a number (text, a bool) as `str` gives it. Scalar tensors and arrays count as numbers.
    """
    if isinstance(value, Measured):
        return f"≈ {number(value.values, digits)}"
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not np.isfinite(value):
        return str(value).replace("-", "−")
    rounded = float(f"{value:.{digits - 1}e}") + 0.0  # + 0.0 turns −0.0 into 0.0
    exponent = 0 if rounded == 0 else int(f"{rounded:e}".split("e")[1])
    text = f"{rounded:,.{max(digits - 1 - exponent, 0)}f}" if -4 <= exponent < 6 else f"{rounded:.{digits - 1}e}"
    return text.replace("-", "−")


def as_array(values: object) -> np.ndarray:
    """Values of a series as a one-dimensional float64 array (n,); tensors of any type and device are taken too."""
    if isinstance(values, Measured):
        values = values.values
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(1) if array.ndim == 0 else array


def clear_grid_over_images(fig: Figure) -> None:
    """Matplotlib draws the grid above images, whose pixels are a grid of their own."""
    for axes in fig.axes:
        if axes.images:
            axes.grid(visible=False)


def mark_every_point_of_few(fig: Figure, few: int = 25) -> None:
    """Mark every point of short lines: a marker at every tenth, which keeps long ones apart, would leave some bare."""
    for axes in fig.axes:
        for line in axes.lines:
            if len(np.asarray(line.get_xdata())) <= few:
                line.set_markevery(1)


def require_words(**texts: str) -> None:
    """Raise ValueError for the first text that is empty."""
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"{name} is {text!r}; a figure needs it in words, for those too who cannot see the picture"
            )


def image_tag(source: bytes, media_type: str, alt: str, width: int | None = None) -> str:
    """`<img>` with its picture inside, which shows in untrusted notebooks too, where inline `<svg>` is removed."""
    size = f' width="{width}"' if width else ""
    data = base64.b64encode(source).decode("ascii")
    return f'<img alt="{html.escape(alt)}"{size} src="data:{media_type};base64,{data}">'


def html_table(cells: Iterable[Sequence[str]], header: Sequence[str], caption: str = "") -> str:
    """Cells of text as an HTML table, everything escaped. Columns of sentences begin at the left, others end right."""
    rows = [_checked(row, header) for row in cells]
    starts = [
        ' style="text-align: left"' * any(len(cell) > SHORT for cell in column) for column in zip(*rows, strict=True)
    ]
    starts = starts or [""] * len(header)
    title = f"<caption>{inline_html(caption)}</caption>" if caption else ""
    head = "".join(
        f'<th scope="col"{start}>{html.escape(name)}</th>' if name else "<td></td>"
        for name, start in zip(header, starts, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{start}>{html.escape(cell)}</td>" for cell, start in zip(row, starts, strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text_table(cells: Iterable[Sequence[str]], header: Sequence[str]) -> str:
    """Cells of text in columns, left-aligned.

    A measured number takes the room of the longest one possible, so that a different last digit moves nothing else.
    """
    rows = [list(header), *(list(_checked(row, header)) for row in cells)]
    longest = number(Measured(-1.23e-5))
    widths = [max(len(MEASURED.sub(longest, cell)) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _checked(row: Sequence[str], header: Sequence[str]) -> Sequence[str]:
    if len(row) != len(header):
        raise ValueError(f"a row has {len(row)} cells {list(row)}, but the header has {len(header)}: {list(header)}")
    return row


def svg(fig: Figure) -> bytes:
    """Return the figure as an SVG file, the same bytes each time, whose colours follow the page that shows it."""
    for patch in fig.findobj(Patch):
        if hatch := patch.get_hatch():  # each dot is a path of its own: "...." would take 250 KB
            patch.set_hatch(re.sub(r"([.oO*])\1+", r"\1", hatch))
    for axes in fig.axes:
        if axes.images:  # what lies on an image keeps its colour, as the image does
            for number, artist in enumerate([*axes.texts, *axes.lines]):
                artist.set_gid(f"on-image-{number}")
    if len(source := _written(fig)) > LARGEST_SVG:
        for axes in fig.axes:
            for artist in [*axes.lines, *axes.collections, *axes.patches]:
                artist.set_rasterized(True)
        source = _written(fig)
    return adaptive(source).encode()


def _written(fig: Figure) -> str:
    with style(), io.StringIO() as file:
        fig.savefig(file, format="svg", dpi=144, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        # in the page's own font, but for letters that are to be of one width
        return re.sub(r"font-family: (?![^;\"]*monospace)[^;\"]*;? ?", "", file.getvalue())


def _show(*, html: str, text: str) -> None:
    display({"text/html": UNSEEN + html, "text/plain": text}, raw=True)
