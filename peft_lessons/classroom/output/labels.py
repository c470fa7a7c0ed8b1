"""Labels in a figure that can be read: none over another, none cut off, and lines that carry their names themselves."""

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

SLACK = 1.5  # pixels by which boxes may meet: they are a little higher than their letters


def overlapping_labels(fig: Figure) -> list[tuple[str, str]]:
    """Return the pairs of texts in a figure that overlap, and ("…", "the edge of the figure") for those cut off.

    Looked at are titles, names of axes, the ticks that are shown, texts, annotations and legends (each as a whole).
    """
    if not isinstance(fig.canvas, FigureCanvasAgg):
        FigureCanvasAgg(fig)
    fig.draw_without_rendering()
    boxes = [(_name(label), _box(label, fig)) for label in _labels(fig)]
    found = [
        (name, other)
        for (name, box), (other, other_box) in itertools.combinations(boxes, 2)
        if box.intersects_path(other_box, filled=True)
    ]
    edges = Bbox.from_extents(*fig.bbox.extents).padded(SLACK)
    return found + [
        (name, "the edge of the figure")
        for name, box in boxes
        if not all(edges.contains(x, y) for x, y in np.asarray(box.vertices))
    ]


def warn_of_overlaps(fig: Figure) -> None:
    """Warn whoever draws a figure of labels that cannot be read.

    A warning, not an error: who changes a number in a lesson shall see the picture all the same. In a lesson of the
    course it does not pass, since nothing may be written to its stderr.
    """
    for name, other in overlapping_labels(fig):
        warnings.warn(f"in this figure {name} lies over {other}: move one of them", stacklevel=3)


def label_lines(axes: Axes, gap: float = 6.0) -> None:
    """Write the label of each line at its last point, in its colour, and remove the legend. Call it last.

    Args:
        gap: from the point to its label, in typographic points.
    """
    fig = axes.get_figure(root=True)
    assert fig is not None
    if not isinstance(fig.canvas, FigureCanvasAgg):
        FigureCanvasAgg(fig)
    if legend := axes.get_legend():
        legend.remove()
    labels = []
    for line in axes.lines:
        points = np.ma.filled(np.ma.masked_invalid(np.column_stack(line.get_data()).astype(float)), np.nan)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) and not str(line.get_label()).startswith("_"):
            where: dict[str, Any] = {"xytext": (gap, 0), "textcoords": "offset points", "va": "center"}
            name, end = str(line.get_label()), tuple(points[-1])
            labels.append(axes.annotate(name, end, color=line.get_color(), annotation_clip=False, **where))
    fig.draw_without_rendering()
    labels.sort(key=lambda label: _height(label))
    places = [_height(label) for label in labels]
    spread = _apart(places, [label.get_window_extent().height for label in labels])
    for label, place, wanted in zip(labels, places, spread, strict=True):
        label.set_position((gap, (wanted - place) * 72 / fig.dpi))


def _apart(places: list[float], heights: list[float]) -> list[float]:
    """Rising places, moved as little as leaves every label its height: neighbours that touch move as one block."""
    blocks: list[list[float]] = []  # centre, height, number of labels
    for place, height in zip(places, heights, strict=True):
        blocks.append([place, height, 1])
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < (blocks[-1][1] + blocks[-2][1]) / 2:
            (below, low, n), (above, high, m) = blocks[-2:]
            blocks[-2:] = [[(n * below + m * above) / (n + m), low + high, n + m]]
    spread, rest = [], iter(heights)
    for centre, height, number in blocks:
        edge = centre - height / 2
        for _ in range(int(number)):
            own = next(rest)
            spread.append(edge + own / 2)
            edge += own
    return spread


def _height(label: Annotation) -> float:
    """Where the point of a label lies, in pixels from below."""
    assert label.axes is not None
    return float(label.axes.transData.transform(label.xy)[1])


def _labels(fig: Figure) -> Iterator[Artist]:
    yield from (text for text in fig.texts if _shown(text))
    yield from fig.legends
    for axes in fig.axes:
        titles = axes.title, axes._left_title, axes._right_title  # type: ignore[attr-defined]
        yield from (text for text in [*axes.texts, *titles] if _shown(text))
        if legend := axes.get_legend():
            yield legend
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            yield from (text for text in (axis.label, axis.offsetText) if axis.get_visible() and _shown(text))
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                shown = axis.get_visible() and tick.get_visible() and low <= tick.get_loc() <= high
                yield from (text for text in (tick.label1, tick.label2) if shown and _shown(text))


def _shown(text: Text) -> bool:
    return text.get_visible() and bool(text.get_text().strip())


def _name(label: Artist) -> str:
    return repr(label.get_text()) if isinstance(label, Text) else "the legend"


def _box(label: Artist, fig: Figure) -> Path:
    """Return the rectangle of a label in pixels, turned as its text is."""
    if not isinstance(label, Text):
        extent, angle = label.get_window_extent(), 0.0
        centre = np.array([extent.x0 + extent.width / 2, extent.y0 + extent.height / 2])
    else:
        angle = label.get_rotation()
        turned = Text.get_window_extent(label)  # of an annotation without its arrow
        centre = np.array([turned.x0 + turned.width / 2, turned.y0 + turned.height / 2])
        label.set_rotation(0)
        extent = Text.get_window_extent(label)
        label.set_rotation(angle)
    half = np.maximum(np.array([extent.width, extent.height]) / 2 - SLACK, 0.5)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * half
    return Path(corners @ np.array([[cos, sin], [-sin, cos]]) + centre, closed=True)
