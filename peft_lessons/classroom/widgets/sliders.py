"""What the two interactive figures share: a slider for each setting, and forms that need no browser.

A sweep and a live figure differ only in where the picture is drawn. Both show, in a page that runs no script or in
plain text, the picture at one setting and a table of the numbers at several.
"""

import html
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from peft_lessons.classroom.output.cards import UNSEEN, inline_html
from peft_lessons.classroom.output.figures import html_table, number, require_words, text_table

HERE = Path(__file__).parent
SHOWN = 9  # of a slider's values, at most, in the table


class Sliders(anywidget.AnyWidget):
    """A figure with a slider for each setting. Subclasses draw; `setting` is what the sliders say now."""

    _css = (HERE / "theme.css").read_text(encoding="utf-8") + (HERE / "sliders.css").read_text(encoding="utf-8")

    title = traitlets.Unicode().tag(sync=True)
    caption_html = traitlets.Unicode().tag(sync=True)  # made and escaped here
    alt = traitlets.Unicode().tag(sync=True)
    sliders = traitlets.List(traitlets.Dict()).tag(sync=True)  # {"name": "rank", "labels": ["1", "2", "4"]} each
    # One index into the labels per slider. No echo: it would set back a slider that moved on while it was under way.
    position = traitlets.List(traitlets.Int()).tag(sync=True, echo_update=False)

    def __init__(self, settings: Mapping[str, Sequence[Any]], *, title: str, caption: str, alt: str, **state: Any):
        require_words(title=title, caption=caption, alt=alt)
        self.caption = caption
        self.settings = checked_settings(settings)
        middle = setting_at(self.settings, middle_of(self.settings))
        self._shown = ", ".join(f"{name.replace('_', ' ')} {label(value)}" for name, value in middle.items())
        super().__init__(
            title=title,
            caption_html=inline_html(caption),
            alt=alt,
            sliders=[
                {"name": name.replace("_", " "), "labels": [label(value) for value in values]}
                for name, values in self.settings.items()
            ],
            position=middle_of(self.settings),
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
        """The picture at the first position, as an `<img>`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        sliders = ", ".join(f"{slider['name']}: {', '.join(slider['labels'])}" for slider in self.sliders)
        return f"[{type(self).__name__}] {self.title} ({sliders})\n{self.caption}\n\n{text_table(*self._table())}"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_() or ({}, {})
        words = f"<strong>{html.escape(self.title)}</strong><br>{self.caption_html}<br>Picture at {self._shown}."
        figure = f"<figure>{self._picture()}<figcaption>{words}</figcaption></figure>"
        return {**data, "text/plain": repr(self), "text/html": UNSEEN + figure + html_table(*self._table())}, metadata


def checked_settings(settings: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Settings as lists.

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


def setting_at(settings: Mapping[str, Sequence[Any]], position: Sequence[int]) -> dict[str, Any]:
    return {name: values[i] for (name, values), i in zip(settings.items(), position, strict=True)}


def middle_of(settings: Mapping[str, Sequence[Any]]) -> list[int]:
    """Where the sliders start, and what the static picture shows."""
    return [len(values) // 2 for values in settings.values()]


def all_positions(settings: Mapping[str, Sequence[Any]]) -> Iterator[tuple[int, ...]]:
    """Every combination of the sliders, the last one fastest."""
    return itertools.product(*(range(len(values)) for values in settings.values()))


def several_positions(settings: Mapping[str, Sequence[Any]]) -> list[tuple[int, ...]]:
    """The rows of the table: each slider moves through its values, nine at most, the others in the middle."""
    middle = middle_of(settings)
    positions = {tuple(middle)}
    for place, values in enumerate(settings.values()):
        for i in np.unique(np.linspace(0, len(values) - 1, min(len(values), SHOWN)).round().astype(int)):
            positions.add((*middle[:place], int(i), *middle[place + 1 :]))
    return sorted(positions)


def label(value: object) -> str:
    """A slider's value as it is shown; floats as short as they are, since nothing measured them."""
    return f"{value:.6g}" if isinstance(value, float) else number(value)


def describe(setting: Mapping[str, Any]) -> str:
    """A setting as it is written in a call: `rank=4, bits=8`."""
    return ", ".join(f"{name}={value!r}" for name, value in setting.items())
