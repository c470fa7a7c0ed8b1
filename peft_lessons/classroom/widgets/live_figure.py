"""A figure with controls that the kernel draws anew at each move, for what is too large to compute ahead.

Only what moves is drawn again, over a copy of what does not (blitting), which is ten times as fast as a whole figure;
and the browser keeps what it has seen.
"""

import base64
import io
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import traitlets
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from peft_lessons.classroom.output.figures import clear_grid_over_images, image_tag, new_figure, number, style, svg
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

Update = Callable[..., Mapping[str, Any]]
MOST_FRAMES = 400  # that a page without a kernel gets: some kilobytes each


class Canvas:
    """Axes whose moving artists are drawn over a stored background.

    Args:
        setup: draws on the axes and returns the artists that move: one, or a list or dict of them.
        update: called as `update(artists, bits=4)`; changes them and returns readouts by name.
    """

    dpi = 96

    def __init__(self, setup: Callable[[Axes], Any], update: Update):
        self.figure, self.axes = new_figure(width=6, height=3.3)
        self.figure.set_dpi(self.dpi)
        self.update = update
        with style():
            self.artists = setup(self.axes)
        clear_grid_over_images(self.figure)
        self.moving = sorted(_artists(self.artists), key=lambda artist: artist.get_zorder())
        if not self.moving:
            raise ValueError("setup() returned no artists; it must return those that update() changes")
        for artist in self.moving:
            artist.set_animated(True)
        assert isinstance(self.figure.canvas, FigureCanvasAgg)
        self.canvas = self.figure.canvas
        self.background: Any = None
        self.limits: tuple[Any, ...] = ()

    def draw(self, setting: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
        """Return a PNG and the readouts at this setting."""
        readouts = self.update(self.artists, **setting)
        if not isinstance(readouts, Mapping):
            raise TypeError(f"update({describe(setting)}) returned {type(readouts).__name__}; it must return a dict")
        limits = (self.axes.get_xlim(), self.axes.get_ylim())
        if limits != self.limits:
            self.canvas.draw()
            self.background, self.limits = self.canvas.copy_from_bbox(self.figure.bbox), limits
        self.canvas.restore_region(self.background)
        for artist in self.moving:
            self.axes.draw_artist(artist)
        return encode_png(np.asarray(self.canvas.buffer_rgba())), {
            name: number(value) for name, value in readouts.items()
        }

    def static(self, setting: Mapping[str, Any]) -> bytes:
        """Return an SVG at this setting."""
        self.update(self.artists, **setting)
        self.limits = ()  # it is laid out anew, and its hatches may change: the background is no longer right
        return svg(self.figure)


class LiveFigure(Sliders):
    """The widget that `live_figure` returns; `.setting` is what the sliders stand at."""

    _esm = source("parts.js", "sliders.js", "live_figure.js")

    # The position that it answers, whether in vain, a PNG (in vain, the last one), and readouts as [name, text] pairs.
    answer = traitlets.Dict().tag(sync=True)
    width = traitlets.Int().tag(sync=True)  # pixels of the page

    def __init__(self, canvas: Canvas, settings: Settings, start: Position, **words: str):
        self._canvas = canvas
        self._rows: list[tuple[list[str], dict[str, str]]] = []
        for position in several_positions(settings, start):
            setting = setting_at(settings, position)
            self._rows.append(([label(value) for value in setting.values()], canvas.draw(setting)[1]))
        first = setting_at(settings, start)
        self._static = canvas.static(first)
        answer = _answer(start, *canvas.draw(first))
        width = round(canvas.figure.get_figwidth() * 96)
        super().__init__(settings, start, answer=answer, width=width, **words)
        self.observe(self._redraw, "position")

    def _frames_state(self) -> dict[str, Any]:
        """Raise ValueError where there are too many settings to draw each."""
        number_of_frames = math.prod(len(values) for values in self.settings.values())
        if number_of_frames > MOST_FRAMES:
            raise ValueError(f"it has {number_of_frames:,} settings, and a page can hold {MOST_FRAMES}")
        drawn = [self._canvas.draw(setting_at(self.settings, here)) for here in all_positions(self.settings)]
        frames = [
            {"url": small_picture(png), "readouts": [[name, text] for name, text in readouts.items()]}
            for png, readouts in drawn
        ]
        return {"width": self.width, "frames": frames}

    def _redraw(self, _: Any) -> None:
        try:
            self.answer = _answer(self.position, *self._canvas.draw(self.setting))
        except Exception as error:  # the notebook shows no error of a slider's, so the figure does
            readouts = {"error": f"{type(error).__name__}: {error}"}
            self.answer = _answer(self.position, self.answer["png"], readouts, failed=True)
            raise

    def _picture(self) -> str:
        return image_tag(self._static, "image/svg+xml", self.alt)

    def _table(self) -> tuple[list[list[str]], list[str]]:
        header = [*(slider["name"] for slider in self.sliders), *self._rows[0][1]]
        return [[*labels, *readouts.values()] for labels, readouts in self._rows], header


def live_figure(
    setup: Callable[[Axes], Any],
    update: Update,
    *,
    settings: Settings,
    start: Mapping[str, Any] | None = None,
    title: str,
    caption: str,
    alt: str,
) -> LiveFigure:
    """Build a matplotlib figure with a control for each setting; a cell shows it when this is its last expression.

    Args:
        setup: called once with axes in the course's style. Draws everything, fixes the limits, and returns the artists
            that move: one, or a list or dict of them. What is not among them (title, ticks, grid) stays as it is.
        update: called as `update(artists, bits=4)` at each move, and once for each row of the table in the static
            forms; changes the artists and returns readouts by name (numbers or texts, `Measured` where they may differ
            between machines).
        settings: the values of each setting, by name. Numbers get a slider, True and False (or "yes" and "no") a
            switch, others buttons.
        start: where settings start, as {"rank": 8}, and what the stored picture shows; the others start in the middle.

    Raises:
        TypeError: `setup` returns something that is not an artist, or `update` something that is not a dict.
        ValueError: nothing to slide over, a start that does not exist, or no artist.
    """
    lists = checked_settings(settings)
    return LiveFigure(Canvas(setup, update), lists, checked_start(lists, start), title=title, caption=caption, alt=alt)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode pixels (height, width, 4), uint8, red to blue and opacity, as a PNG (W3C PNG specification, 3rd edition).

    Pillow tries five filters on every row; without any, a flat drawing is as small and takes half the time.
    """
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 4 * width), dtype=np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)
    eight_bit_rgba = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", eight_bit_rgba), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def small_picture(png: bytes) -> str:
    """Return a PNG as a data URL of lossless WebP, some five times as small; a browser shows both alike."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).save(file, "WEBP", lossless=True, quality=40, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _answer(position: Position, png: bytes, readouts: Mapping[str, str], failed: bool = False) -> dict[str, Any]:
    texts = [[name, text] for name, text in readouts.items()]
    return {"position": position, "failed": failed, "png": png, "readouts": texts}


def _artists(found: Any) -> Iterable[Artist]:
    """Yield the artists in what setup() returned: containers such as a bar plot's hold several."""
    if isinstance(found, Artist):
        yield found
    elif isinstance(found, Mapping):
        yield from _artists(list(found.values()))
    elif isinstance(found, Iterable) and not isinstance(found, str):
        for part in found:
            yield from _artists(part)
    else:
        raise TypeError(
            f"setup() returned {found!r}; it must return the artists that move, one or a list or dict of them"
        )
