"""A figure with controls whose whole grid is computed once, so that a slide asks no kernel and takes a millisecond."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import traitlets

from peft_lessons.classroom.output.colours import PALETTE
from peft_lessons.classroom.output.figures import Measured, as_array, image_tag, number
from peft_lessons.classroom.widgets.chart import KINDS, SCALES, Axis, Chart, span, tick_text
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.classroom.widgets.sliders import (
    Position,
    Settings,
    Sliders,
    all_positions,
    checked_settings,
    checked_start,
    describe,
    label,
    setting_at,
    several_positions,
)

LARGEST_GRID = 2048  # combinations of the sliders
LARGEST_DRAWING = 8_000_000  # characters of all paths together, which the browser holds


@dataclass(frozen=True)
class Frame:
    """What a sweep shows at one setting.

    Args:
        series: values (n,) by name; wrap them in `Measured` where training or a clock produced them. NaN leaves a gap.
        readouts: numbers or texts by name, listed below the picture.
        x: where the values stand (n,), if that differs between settings; else `sweep` has it once for all.
    """

    series: Mapping[str, Any]
    readouts: Mapping[str, Any] = field(default_factory=dict)
    x: Any = None


class Sweep(Sliders):
    """The widget that `sweep` returns; `.setting` is what the sliders stand at."""

    _esm = source("parts.js", "sliders.js", "sweep.js")

    drawing = traitlets.Unicode().tag(sync=True)  # the SVG at the first position
    narrow = traitlets.Unicode().tag(sync=True)  # the same for a phone, without paths: those above are fitted into it
    series = traitlets.List(traitlets.Unicode()).tag(sync=True)  # their names
    x_name = traitlets.Unicode().tag(sync=True)  # what a point's x is; nothing where x has names
    # {"paths", "marks", "points", "readouts"}, the last setting fastest. Points are texts "x: y" for each series.
    frames = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(self, settings: Settings, start: Position, frames: list[Frame], chart: Chart, **words: str):
        drawn = [_drawn(chart, frame) for frame in frames]
        size = sum(len(d) for frame in drawn for d in frame["paths"])
        if size > LARGEST_DRAWING:
            raise ValueError(
                f"{len(frames):,} settings with {chart.names} make a drawing of {size / 1e6:.0f} MB; it may have "
                f"{LARGEST_DRAWING / 1e6:.0f}: fewer settings or fewer points would do"
            )
        first = drawn[_flat(settings, start)]
        nothing = [""] * len(chart.names)
        self._frames = frames
        self._static = chart.static(first["paths"], first["marks"], words["alt"])
        super().__init__(
            settings,
            start,
            drawing=chart.live(first["paths"], first["marks"], words["alt"]),
            narrow=chart.narrow.live(nothing, nothing, words["alt"]),
            series=list(chart.names),
            x_name="" if chart.named else chart.x_label,
            frames=drawn,
            **words,
        )

    def _frames_state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("drawing", "narrow", "series", "x_name", "frames")}

    def _picture(self) -> str:
        return image_tag(self._static.encode(), "image/svg+xml", self.alt)

    def _table(self) -> tuple[list[list[str]], list[str]]:
        first = self._frames[0]
        header = [*(slider["name"] for slider in self.sliders), *first.readouts, *first.series]
        rows = []
        for position in several_positions(self.settings, self._start):
            frame = self._frames[_flat(self.settings, position)]
            labels = [label(value) for value in setting_at(self.settings, position).values()]
            ranges = [_range(values) for values in frame.series.values()]
            rows.append([*labels, *(number(value) for value in frame.readouts.values()), *ranges])
        return rows, header


def sweep(
    compute: Callable[..., Frame],
    *,
    settings: Settings,
    start: Mapping[str, Any] | None = None,
    x: Any = None,
    x_label: str,
    y_label: str,
    title: str,
    caption: str,
    alt: str,
    kind: str = "line",
    x_scale: str = "linear",
    y_scale: str = "linear",
    y_range: tuple[float, float] | None = None,
) -> Sweep:
    """Build a chart with a control for each setting; a cell shows it when this is its last expression.

    Args:
        compute: called with every combination of the settings, as `compute(rank=4, bits=8)`; returns a `Frame`.
        settings: the values of each setting, by name. Numbers get a slider, True and False (or "yes" and "no") a
            switch, others buttons.
        start: where settings start, as {"rank": 8}, and what the stored picture shows; the others start in the middle.
        x: where the values of each series stand (n,): numbers, or names. Left out where each `Frame` brings its own.
        kind: "line", "bar", or "step" (each value holds until the next).
        x_scale, y_scale: "linear" or "log".
        y_range: what the vertical axis shows; otherwise the range of the whole grid. It never moves with a slider, so
            that what looks smaller is smaller.

    Raises:
        TypeError: `compute` does not take these settings, or does not return a `Frame`.
        ValueError: nothing to slide over, too large a grid, series that differ in name or length, no finite value, a
            value that a log scale cannot show, a start that does not exist, or an unknown kind or scale. The message
            names the setting.
    """
    _one_of("kind", kind, KINDS)
    _one_of("x_scale", x_scale, SCALES)
    _one_of("y_scale", y_scale, SCALES)
    lists = checked_settings(settings)
    position = checked_start(lists, start)
    size = int(np.prod([len(values) for values in lists.values()]))
    if size > LARGEST_GRID:
        raise ValueError(f"the sliders have {size:,} combinations; a sweep computes at most {LARGEST_GRID:,}")
    try:
        inspect.signature(compute).bind(**setting_at(lists, [0] * len(lists)))
    except TypeError as error:
        raise TypeError(f"compute cannot be called with the settings {', '.join(lists)}: {error}") from None

    places, labels = _places(x)
    frames = []
    for here in all_positions(lists):
        setting = setting_at(lists, here)
        frames.append(_checked(compute(**setting), places, f"compute({describe(setting)})", x_scale, y_scale))
        _alike(frames[0], frames[-1], f"compute({describe(setting)})")

    xs = [frame.x for frame in frames]
    ys = [as_array(values) for frame in frames for values in frame.series.values()]
    if not any(np.isfinite(array).any() for array in ys):
        raise ValueError("no series has a finite value at any setting, so there is nothing to draw")
    x_log, y_log = x_scale == "log", y_scale == "log"
    bar_width = _bar_width(xs, x_log) if kind == "bar" else 0.0
    x_range = span([_widened(array, bar_width, x_log) for array in xs], x_log, 0.02)
    y_range = _checked_range(y_range, y_log) if y_range else span(ys, y_log, 0.05, include_zero=kind == "bar")
    distinct = np.unique(np.concatenate(xs))
    if labels is not None:
        x_ticks = list(zip(places.tolist(), labels, strict=True))
    elif len(distinct) <= 8:
        x_ticks = [(value, tick_text(value)) for value in distinct.tolist()]
    else:
        x_ticks = [(value, tick_text(value)) for value in Axis(*x_range, x_log, 0, 1).ticks()]
    names = list(frames[0].series)
    chart = Chart(kind, names, x_label, y_label, x_range, y_range, x_log, y_log, x_ticks, bar_width)
    return Sweep(lists, position, frames, chart, title=title, caption=caption, alt=alt)


def _places(x: Any) -> tuple[Any, list[str] | None]:
    """Positions on the horizontal axis, and their names where x is made of names."""
    if x is None:
        return None, None
    if any(isinstance(value, str) for value in x):
        return np.arange(len(x), dtype=np.float64), [str(value) for value in x]
    return as_array(x), None


def _checked(frame: Frame, places: Any, call: str, x_scale: str, y_scale: str) -> Frame:
    """Return the frame with its x filled in, or raise an error that says what is wrong with it."""
    if not isinstance(frame, Frame):
        raise TypeError(f"{call} returned {type(frame).__name__}; it must return a Frame(series=…, readouts=…)")
    if not 1 <= len(frame.series) <= len(PALETTE):
        raise ValueError(f"{call} has {len(frame.series)} series; a chart shows 1 to {len(PALETTE)}")
    if (places is None) == (frame.x is None):
        raise ValueError(
            f"{call}: give x either once to sweep() or in every Frame, {'not' if places is None else 'not to'} both"
        )
    x = places if frame.x is None else as_array(frame.x)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"{call}: x must be one or more finite numbers in a row; it has shape {x.shape}")
    if x_scale == "log" and (x <= 0).any():
        raise ValueError(f"{call}: x has the value {x.min():g}, which a log scale cannot show")
    for name, values in frame.series.items():
        array = as_array(values)
        if array.shape != x.shape:
            raise ValueError(f"{call}: series {name!r} has shape {array.shape}, but x has {x.shape}")
        if y_scale == "log" and (array <= 0).any():
            raise ValueError(
                f"{call}: series {name!r} has the value {np.nanmin(array):g}, which a log scale cannot show"
            )
    return Frame(frame.series, frame.readouts, x)


def _alike(first: Frame, frame: Frame, call: str) -> None:
    """Every setting must bring the same series and readouts: a curve that vanishes under a slider misleads."""
    for what, here, there in (
        ("series", list(frame.series), list(first.series)),
        ("readouts", list(frame.readouts), list(first.readouts)),
    ):
        if here != there:
            raise ValueError(f"{call} has the {what} {here}, but the first setting has {there}")


def _checked_range(y_range: tuple[float, float], log: bool) -> tuple[float, float]:
    low, high = map(float, y_range)
    if not (np.isfinite([low, high]).all() and low < high) or (log and low <= 0):
        raise ValueError(f"y_range is {y_range}; it must be (low, high) with low < high{' and low > 0' if log else ''}")
    return low, high


def _bar_width(xs: list[np.ndarray], log: bool) -> float:
    """Four fifths of the smallest distance between neighbours, so that bars of one x stand together."""
    gaps = [np.diff(np.unique(np.log10(x) if log else x)) for x in xs]
    smallest = min((gap.min() for gap in gaps if len(gap)), default=1.0)
    return 0.8 * float(smallest)


def _widened(x: np.ndarray, width: float, log: bool) -> np.ndarray:
    half = width / 2
    return np.concatenate([x * 10**-half, x * 10**half]) if log else np.concatenate([x - half, x + half])


def _drawn(chart: Chart, frame: Frame) -> dict[str, Any]:
    series = [as_array(values) for values in frame.series.values()]
    return {
        "paths": [chart.path(i, frame.x, values) for i, values in enumerate(series)],
        "marks": [chart.marks(i, frame.x, values) for i, values in enumerate(series)],
        "points": [_said(chart, frame.x, values) for values in frame.series.values()],
        "readouts": [[name, number(value)] for name, value in frame.readouts.items()],
    }


def _said(chart: Chart, x: np.ndarray, values: Any) -> list[str]:
    """Return what the points of a series that are drawn say of themselves: "8: 0.577"."""
    names = dict(chart.x_ticks)
    wrap = Measured if isinstance(values, Measured) else float
    return [
        f"{names.get(place) or tick_text(place)}: {number(wrap(value))}"
        for place, value in zip(x.tolist(), as_array(values).tolist(), strict=True)
        if np.isfinite(value)
    ]


def _range(values: Any) -> str:
    """Sum up a series in a cell: its smallest and largest value, and how many are missing."""
    array = as_array(values)
    known = array[~np.isnan(array)]
    missing = f" ({len(array) - len(known)} missing)" if len(known) < len(array) else ""
    if not len(known):
        return "missing"
    ends = [number(Measured(end) if isinstance(values, Measured) else end) for end in (known.min(), known.max())]
    return (ends[0] if ends[0] == ends[1] else " to ".join(ends)) + missing


def _flat(settings: Settings, position: Sequence[int]) -> int:
    return int(np.ravel_multi_index(tuple(position), tuple(len(values) for values in settings.values())))


def _one_of(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{what} is {value!r}; it can be {', '.join(map(repr, choices))}")
