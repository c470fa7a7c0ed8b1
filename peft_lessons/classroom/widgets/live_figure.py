"""A figure with sliders that the kernel draws anew at each move, for what is too large to compute ahead.

Only what moves is drawn again, over a copy of what does not (blitting), which is ten times as fast as a whole figure;
and the browser keeps what it has seen.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import traitlets
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from peft_lessons.classroom.output.figures import clear_grid_over_images, image_tag, new_figure, number, style
from peft_lessons.classroom.widgets.sliders import (
    HERE,
    Sliders,
    checked_settings,
    describe,
    label,
    middle_of,
    setting_at,
    several_positions,
)

Update = Callable[..., Mapping[str, Any]]


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

    def draw(self, setting: Mapping[str, Any], compression: int = 1) -> tuple[bytes, dict[str, str]]:
        """A PNG and the readouts at this setting."""
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
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]
        return encode_png(pixels, compression), {name: number(value) for name, value in readouts.items()}


class LiveFigure(Sliders):
    """The widget that `live_figure` returns; `.setting` is what the sliders stand at."""

    _esm = (HERE / "sliders.js").read_text(encoding="utf-8") + (HERE / "live_figure.js").read_text(encoding="utf-8")

    # The position that it answers (none for an error), a PNG, and readouts as [name, text] pairs.
    answer = traitlets.Dict().tag(sync=True)
    width = traitlets.Int().tag(sync=True)  # pixels of the page

    def __init__(self, canvas: Canvas, settings: Mapping[str, Sequence[Any]], **words: str):
        self._canvas = canvas
        self._rows: list[tuple[list[str], dict[str, str]]] = []
        for position in several_positions(settings):
            setting = setting_at(settings, position)
            self._rows.append(([label(value) for value in setting.values()], canvas.draw(setting)[1]))
        start = setting_at(settings, middle_of(settings))
        self._static, readouts = canvas.draw(start, compression=9)
        answer = _answer(middle_of(settings), self._static, readouts)
        width = round(canvas.figure.get_figwidth() * 96)
        super().__init__(settings, answer=answer, width=width, **words)
        self.observe(self._redraw, "position")

    def _redraw(self, _: Any) -> None:
        try:
            self.answer = _answer(self.position, *self._canvas.draw(self.setting))
        except Exception as error:  # the notebook shows no error of a slider's, so the figure does
            self.answer = _answer([], self.answer["png"], {"error": f"{type(error).__name__}: {error}"})
            raise

    def _picture(self) -> str:
        return image_tag(self._static, "image/png", self.alt, width=self.width)

    def _table(self) -> tuple[list[list[str]], list[str]]:
        header = [*(slider["name"] for slider in self.sliders), *self._rows[0][1]]
        return [[*labels, *readouts.values()] for labels, readouts in self._rows], header


def live_figure(
    setup: Callable[[Axes], Any],
    update: Update,
    *,
    settings: Mapping[str, Sequence[Any]],
    title: str,
    caption: str,
    alt: str,
) -> LiveFigure:
    """A matplotlib figure with a slider for each setting; a cell shows it when this is its last expression.

    Args:
        setup: called once with axes in the course's style. Draws everything, fixes the limits, and returns the artists
            that move: one, or a list or dict of them. What is not among them (title, ticks, grid) stays as it is.
        update: called as `update(artists, bits=4)` at each move, and once for each row of the table in the static
            forms; changes the artists and returns readouts by name (numbers or texts, `Measured` where they may differ
            between machines).
        settings: the values of each slider, by name.

    Raises:
        TypeError: `setup` returns something that is not an artist, or `update` something that is not a dict.
        ValueError: nothing to slide over, or no artist.
    """
    return LiveFigure(Canvas(setup, update), checked_settings(settings), title=title, caption=caption, alt=alt)


def encode_png(pixels: np.ndarray, compression: int) -> bytes:
    """A PNG (W3C PNG specification, 3rd edition) of pixels (height, width, 3), uint8.

    Pillow tries five filters on every row; without any, a flat drawing is as small and takes half the time.
    """
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)
    eight_bit_rgb = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", eight_bit_rgb), (b"IDAT", zlib.compress(rows.tobytes(), compression)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _answer(position: list[int], png: bytes, readouts: Mapping[str, str]) -> dict[str, Any]:
    return {"position": position, "png": png, "readouts": [[name, text] for name, text in readouts.items()]}


def _artists(found: Any) -> Iterable[Artist]:
    """The artists in what setup() returned: containers such as a bar plot's hold several."""
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
