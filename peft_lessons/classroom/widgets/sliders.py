"""What the two interactive figures share: a control for each setting, and forms that need no browser.

Numbers get a slider, yes and no a switch, and all other values buttons of which one is pressed.

A sweep and a live figure differ only in where the picture is drawn. Both show, in a page that runs no script or in
plain text, the picture at one setting and a table of the numbers at several.
"""

import html
import itertools
from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

import anywidget
import numpy as np
import traitlets

from peft_lessons.classroom.output.cards import UNSEEN, inline_html
from peft_lessons.classroom.output.figures import html_table, number, require_words, text_table
from peft_lessons.classroom.widgets.parts import source

SHOWN = 9  # of a slider's values, at most, in the table

Settings = Mapping[str, Sequence[Any]]
Position = list[int]


class Sliders(anywidget.AnyWidget):
    """A figure with a control for each setting. Subclasses draw; `setting` is what the controls say now."""

    _css = source("theme.css", "parts.css", "sliders.css")

    title = traitlets.Unicode().tag(sync=True)
    caption_html = traitlets.Unicode().tag(sync=True)  # made and escaped here
    alt = traitlets.Unicode().tag(sync=True)
    # {"name": "rank", "labels": ["1", "2", "4"], "control": "slider"} each
    sliders = traitlets.List(traitlets.Dict()).tag(sync=True)
    # One index into the labels per slider. No echo: it would set back a slider that moved on while it was under way.
    position = traitlets.List(traitlets.Int()).tag(sync=True, echo_update=False)

    def __init__(
        self, settings: Settings, start: Position, *, title: str, caption: str, alt: str, **state: Any
    ) -> None:
        require_words(title=title, caption=caption, alt=alt)
        self.caption = caption
        self.settings = settings
        self._start = start
        first = setting_at(settings, start)
        self._shown = ", ".join(f"{name.replace('_', ' ')} {label(value)}" for name, value in first.items())
        super().__init__(
            title=title,
            caption_html=inline_html(caption),
            alt=alt,
            sliders=[
                {
                    "name": name.replace("_", " "),
                    "labels": [label(value) for value in values],
                    "control": control_for(values),
                }
                for name, values in settings.items()
            ],
            position=start,
            **state,
        )

    @property
    def setting(self) -> dict[str, Any]:
        """The values that the sliders stand at, by name."""
        return setting_at(self.settings, self.position)

    @traitlets.validate("position")
    def _within_the_sliders(self, proposal: Any) -> list[int]:
        position = list(proposal["value"])
        sizes = [len(values) for values in self.settings.values()]
        if len(position) != len(sizes) or any(not 0 <= i < n for i, n in zip(position, sizes, strict=True)):
            raise traitlets.TraitError(f"position {position} does not fit sliders with {sizes} values")
        return position

    def _table(self) -> tuple[list[list[str]], list[str]]:
        """Cells and header of the table at several settings."""
        raise NotImplementedError

    def _picture(self) -> str:
        """Return the picture at the first position, as an `<img>`."""
        raise NotImplementedError

    def all_it_shows(self) -> dict[str, Any]:
        """Return the state from which a page without a kernel shows the figure at every setting."""
        words = {name: getattr(self, name) for name in ("title", "caption_html", "alt", "sliders")}
        return words | {"position": list(self._start)} | self._frames_state()

    def _frames_state(self) -> dict[str, Any]:
        """Return the part of the state that holds a frame for each setting, the last setting fastest."""
        raise NotImplementedError

    def __repr__(self) -> str:
        sliders = ", ".join(f"{slider['name']}: {', '.join(slider['labels'])}" for slider in self.sliders)
        return f"[{type(self).__name__}] {self.title} ({sliders})\n{self.caption}\n\n{text_table(*self._table())}"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_() or ({}, {})
        words = f"<strong>{html.escape(self.title)}</strong><br>{self.caption_html}<br>Picture at {self._shown}."
        figure = f"<figure>{self._picture()}<figcaption>{words}</figcaption></figure>"
        return {**data, "text/plain": repr(self), "text/html": UNSEEN + figure + html_table(*self._table())}, metadata


def checked_settings(settings: Settings) -> dict[str, list[Any]]:
    """Return the settings as lists.

    Raises:
        ValueError: there is no setting, one has no value, or one has a value twice.
    """
    if not settings:
        raise ValueError('settings is empty; give each slider a name and its values, as {"rank": [1, 2, 4, 8]}')
    lists = {name: list(values) for name, values in settings.items()}
    for name, values in lists.items():
        labels = [label(value) for value in values]
        if not values:
            raise ValueError(f"setting {name!r} has no values")
        if len(set(labels)) < len(labels):
            raise ValueError(f"setting {name!r} shows a value twice: {', '.join(labels)}")
    return lists


def setting_at(settings: Settings, position: Sequence[int]) -> dict[str, Any]:
    return {name: values[i] for (name, values), i in zip(settings.items(), position, strict=True)}


def checked_start(settings: Settings, start: Mapping[str, Any] | None) -> Position:
    """Where the controls start, and what the static picture shows: in the middle, unless `start` says otherwise.

    Raises:
        ValueError: `start` names a setting or a value that does not exist.
    """
    start = dict(start or {})
    if unknown := [name for name in start if name not in settings]:
        raise ValueError(f"start names {unknown[0]!r}, which is no setting; the settings are {', '.join(settings)}")
    position = []
    for name, values in settings.items():
        labels = [label(value) for value in values]
        wanted = label(start[name]) if name in start else labels[len(labels) // 2]
        if wanted not in labels:
            raise ValueError(f"start sets {name!r} to {start[name]!r}; its values are {', '.join(labels)}")
        position.append(labels.index(wanted))
    return position


def control_for(values: Sequence[Any]) -> str:
    """Return what a setting is chosen with, by its values: "switch", "slider" or "choice"."""
    if sorted(map(label, values)) == ["no", "yes"]:
        return "switch"
    numbers = all(isinstance(value, Number) and not isinstance(value, bool) for value in values)
    return "slider" if numbers else "choice"


def all_positions(settings: Settings) -> Iterator[tuple[int, ...]]:
    """Every combination of the sliders, the last one fastest."""
    return itertools.product(*(range(len(values)) for values in settings.values()))


def several_positions(settings: Settings, start: Position) -> list[tuple[int, ...]]:
    """List the table's rows: each setting moves through its values, nine at most, the others stay where they start."""
    positions = {tuple(start)}
    for place, values in enumerate(settings.values()):
        for i in np.unique(np.linspace(0, len(values) - 1, min(len(values), SHOWN)).round().astype(int)):
            positions.add((*start[:place], int(i), *start[place + 1 :]))
    return sorted(positions)


def label(value: object) -> str:
    """Return a setting's value as it is shown; floats as short as they are, since nothing measured them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else number(value)


def describe(setting: Mapping[str, Any]) -> str:
    """Return a setting as it is written in a call: `rank=4, bits=8`."""
    return ", ".join(f"{name}={value!r}" for name, value in setting.items())
