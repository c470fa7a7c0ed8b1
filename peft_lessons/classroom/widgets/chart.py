"""A small chart as SVG text: axes, ticks and legend once, and one path per series for every frame.

The drawing is made here, in Python, for the browser and for the static figure alike, so that the two cannot disagree:
the browser only puts another path in place when a slider moves. It is made twice, for a page's column and for a phone,
whose text would else be too small; only the first has paths, which the browser fits into the second. Each series has
its own colour, dashes and marker; bars of a group stand in the order of the legend.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from matplotlib.ticker import Locator, LogLocator, MaxNLocator

from peft_lessons.classroom.output.colours import INK, PALETTE, PAPER, adaptive, themed
from peft_lessons.classroom.output.figures import DASHES

WIDE, NARROW = (640, 360), (360, 300)  # pixels of the view box; the browser scales it
CHARACTER = 7  # pixels, the mean width of one at font size 13
MARKED = 40  # a line with more points than this has a marker at every tenth part of it
KINDS = ("line", "bar", "step")
SCALES = ("linear", "log")


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` onto pixels from `start` to `end`, linearly or by their logarithm."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        low, high = (np.log10([self.low, self.high])) if self.log else (self.low, self.high)
        values = np.log10(values) if self.log else values
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """At most about seven round values within the axis."""
        if self.log:
            decades = np.log10(self.high / self.low)
            locator: Locator = LogLocator(numticks=8) if decades >= 3 else LogLocator(subs=(1.0, 2.0, 5.0), numticks=12)
        else:
            locator = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10])
        slack = 1e-9 * (self.high - self.low)
        inside = locator.tick_values(self.low, self.high)
        return [float(tick) for tick in inside if self.low - slack <= tick <= self.high + slack]


def span(values: Sequence[np.ndarray], log: bool, margin: float, include_zero: bool = False) -> tuple[float, float]:
    """Find the range of all finite values, a `margin` (fraction) wider at both ends, on a linear or logarithmic scale.

    With `include_zero` (bars), zero is in the range and, where it is an end of it, gets no margin.
    """
    flat = np.concatenate([array.ravel() for array in values])
    flat = flat[np.isfinite(flat)]
    low, high = float(flat.min()), float(flat.max())
    if log:
        low, high = np.log10(low), np.log10(high)
    elif include_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        room = 0.5 if log or low == 0 else abs(low) / 10
        low, high = low - room, high + room
    room = (high - low) * margin
    at_zero = include_zero and not log
    low, high = low - room * (not (at_zero and low == 0)), high + room * (not (at_zero and high == 0))
    return (10**low, 10**high) if log else (low, high)


@dataclass(frozen=True)
class Chart:
    """The part of a drawing that no slider moves, and the way from a series to its path.

    Args:
        names: of the series, in the order of the legend.
        x_range, y_range: what the axes show.
        x_ticks: where the horizontal axis is marked, as value and text.
        bar_width: horizontal room for the bars at one x, in units of the axis (of its log10 on a log scale).
        size: width and height in pixels.
    """

    kind: str
    names: Sequence[str]
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_log: bool
    y_log: bool
    x_ticks: Sequence[tuple[float, str]]
    bar_width: float = 0.0
    size: tuple[int, int] = WIDE

    @property
    def narrow(self) -> "Chart":
        """The same chart for a phone."""
        return replace(self, size=NARROW)

    @cached_property
    def y_ticks(self) -> list[tuple[float, str]]:
        return [(tick, tick_text(tick)) for tick in Axis(*self.y_range, self.y_log, 0, 1).ticks()]

    @cached_property
    def top(self) -> float:
        return 12 + 22 * (1 + max(row for row, _ in self._legend_places()))

    @cached_property
    def left(self) -> float:
        return 34 + CHARACTER * max(len(text) for _, text in self.y_ticks)

    @property
    def right(self) -> float:
        return self.size[0] - 14

    @cached_property
    def bottom(self) -> float:
        return self.size[1] - 32 - 16 * (1 + max(row for _, _, row in self._x_labels()))

    @cached_property
    def x(self) -> Axis:
        return Axis(*self.x_range, self.x_log, self.left, self.right)

    @cached_property
    def y(self) -> Axis:
        return Axis(*self.y_range, self.y_log, self.bottom, self.top)

    def path(self, series: int, x: np.ndarray, y: np.ndarray) -> str:
        """Return the `d` of a series' path. Points that are not finite are left out, and the line is broken there."""
        across, up = self.x(x), self.y(y)
        if self.kind == "bar":
            return self._bars(series, x, up)
        pieces: list[str] = []
        pen_down = False
        for place, height in zip(across, up, strict=True):
            if not np.isfinite(height):
                pen_down = False
                continue
            if not pen_down:
                pieces.append(f"M{place:.1f} {height:.1f}")
            elif self.kind == "step":
                pieces.append(f"H{place:.1f}V{height:.1f}")
            else:
                pieces.append(f"L{place:.1f} {height:.1f}")
            pen_down = True
        return "".join(pieces)

    def marks(self, series: int, x: np.ndarray, y: np.ndarray) -> str:
        """Return the `d` of the markers: along a line, and at any point without a neighbour, which no line shows."""
        if self.kind == "bar":
            return ""
        finite = np.isfinite(y)
        beside = np.concatenate([[False], finite[:-1]]) | np.concatenate([finite[1:], [False]])
        stride = 1 if len(y) <= MARKED else len(y) // 10
        along = np.arange(len(y)) % stride == series * stride // len(self.names)
        shown = finite & (~beside | (along & (self.kind == "line")))
        return "".join(
            _marker(series, place, height) for place, height in zip(self.x(x[shown]), self.y(y[shown]), strict=True)
        )

    def _bars(self, series: int, x: np.ndarray, up: np.ndarray) -> str:
        width = self.bar_width / len(self.names)
        position = np.log10(x) if self.x_log else x
        left = position - self.bar_width / 2 + series * width
        left, right = (10**left, 10 ** (left + width)) if self.x_log else (left, left + width)
        ground = self.y(np.array([max(self.y_range[0], min(0.0, self.y_range[1]))]))[0]
        return "".join(
            f"M{a:.1f} {ground:.1f}V{height:.1f}H{b:.1f}V{ground:.1f}Z"
            for a, b, height in zip(self.x(left), self.x(right), up, strict=True)
            if np.isfinite(height)
        )

    def static(self, paths: Sequence[str], marks: Sequence[str], alt: str) -> str:
        """Return the drawing with the given paths, for `<img>`."""
        return adaptive(self._svg(paths, marks, alt))

    def live(self, paths: Sequence[str], marks: Sequence[str], alt: str) -> str:
        """Return the drawing as part of a page that has theme.css; `data-plot` says where its paths belong."""
        return themed(self._svg(paths, marks, alt))

    def _svg(self, paths: Sequence[str], marks: Sequence[str], alt: str) -> str:
        (width, height), left, right, top, bottom = self.size, self.left, self.right, self.top, self.bottom
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" aria-label="{html.escape(alt)}" font-family="system-ui, sans-serif" font-size="13" '
            f'fill="{INK}" data-plot="{left:.1f} {right} {top} {bottom}">',
            f'<g stroke="{INK}" stroke-opacity="0.18">',
            *(f'<path d="M{left:.1f} {place:.1f}H{right}"/>' for place, _ in self._placed(self.y, self.y_ticks)),
            *(f'<path d="M{place:.1f} {top}V{bottom}"/>' for place, _ in self._placed(self.x, self.x_ticks)),
            "</g>",
            *(_text(left - 7, place + 4, "end", text) for place, text in self._placed(self.y, self.y_ticks)),
            *(_text(place, bottom + 18 + 16 * row, "middle", text) for place, text, row in self._x_labels()),
            _text((left + right) / 2, height - 8, "middle", self.x_label),
            _text(0, 0, "middle", self.y_label, f"translate(15 {(top + bottom) / 2:.1f}) rotate(-90)"),
            *self._legend(),
            # A nested svg clips what a fixed range leaves outside; its view box keeps the outer coordinates.
            f'<svg x="{left:.1f}" y="{top - 5}" width="{right - left + 5:.1f}" height="{bottom - top + 10}" '
            f'viewBox="{left:.1f} {top - 5} {right - left + 5:.1f} {bottom - top + 10}">',
            *(f'<path {self._look(i)} d="{d}" data-series="{i}"/>' for i, d in enumerate(paths)),
            *(f'<path fill="{PALETTE[i]}" d="{d}" data-marks="{i}"/>' for i, d in enumerate(marks)),
            "</svg>",
            f'<path d="M{left:.1f} {top}V{bottom}H{right}" fill="none" stroke="{INK}"/>',
            "</svg>",
        ]
        return "".join(parts)

    def _x_labels(self) -> list[tuple[float, str, int]]:
        """Place, text and row of each label below: names that do not fit beside each other alternate between two rows,
        of such numbers every other is left out until they do."""
        placed = self._placed(self.x, self.x_ticks)
        if not self._crowded(placed):
            return [(place, text, 0) for place, text in placed]
        if self.named:
            return [(place, text, i % 2) for i, (place, text) in enumerate(placed)]
        while self._crowded(placed):
            placed = placed[::2]
        return [(place, text, 0) for place, text in placed]

    @property
    def named(self) -> bool:
        """Whether the horizontal axis has names, not numbers."""
        return any(text != tick_text(value) for value, text in self.x_ticks)

    def _crowded(self, placed: Sequence[tuple[float, str]]) -> bool:
        return any(
            CHARACTER * (len(text) + len(other) + 2) / 2 > there - here
            for (here, text), (there, other) in pairwise(placed)
        )

    def _placed(self, axis: Axis, ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
        return [(float(axis(np.array([value]))[0]), text) for value, text in ticks]

    def _look(self, series: int) -> str:
        dashes = f' stroke-dasharray="{DASHES[series]}"' if DASHES[series] else ""
        if self.kind == "bar":
            return f'fill="{PALETTE[series]}" stroke="{PAPER}"'
        return f'fill="none" stroke="{PALETTE[series]}" stroke-width="2.25" stroke-linejoin="round"{dashes}'

    def _legend_places(self) -> list[tuple[int, float]]:
        """Row and left edge of each entry, from the left, in as many rows as the names need."""
        places, row, edge = [], 0, 34.0
        for name in self.names:
            width = 52 + CHARACTER * len(name)
            if edge > 34 and edge + width > self.size[0]:
                row, edge = row + 1, 34.0
            places.append((row, edge))
            edge += width
        return places

    def _legend(self) -> list[str]:
        parts = []
        for i, (name, (row, edge)) in enumerate(zip(self.names, self._legend_places(), strict=True)):
            middle = 14 + 22 * row
            if self.kind == "bar":
                sample = f"M{edge} {middle - 6}H{edge + 26}V{middle + 6}H{edge}Z"
            else:
                sample = f"M{edge} {middle}H{edge + 26}"
            parts.append(f'<path {self._look(i)} d="{sample}"/>')
            if self.kind == "line":
                parts.append(f'<path fill="{PALETTE[i]}" d="{_marker(i, edge + 13, middle)}"/>')
            parts.append(_text(edge + 34, middle + 4, "start", name))
        return parts


def tick_text(value: float) -> str:
    """Return a tick's value in full where that is short, else in powers of ten."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        text = f"{value:,.6f}".rstrip("0").rstrip(".")
    else:
        mantissa, exponent = f"{value:.10e}".split("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return text.replace("-", "−")


def _marker(series: int, x: float, y: float) -> str:
    """Circle, square, triangle, diamond and triangle pointing down, about 8 pixels wide, in the palette's order."""
    shape = (
        "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        "m-3.5 -3.5h7v7h-7z",
        "m0 -4.5l4.5 8h-9z",
        "m0 -5l5 5l-5 5l-5 -5z",
        "m0 4.5l4.5 -8h-9z",
    )[series]
    return f"M{x:.1f} {y:.1f}{shape}"


def _text(x: float, y: float, anchor: str, text: str, transform: str = "") -> str:
    placed = f' transform="{transform}"' if transform else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{placed}>{html.escape(text)}</text>'
