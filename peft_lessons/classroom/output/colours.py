"""The page's colours for pictures, which stand on light pages and on dark ones.

They are those of theme.css. A picture is drawn in the light ones; `adaptive` and `themed` put the dark ones beside
them. A colour of the author's own is mirrored as CSS's `invert(1) hue-rotate(180deg)` does it, which keeps its hue and
turns its lightness around. The dark series of theme.css are such mirrors, so that a live figure, a picture of pixels
which only such a filter can reach, has the same colours as all others.
"""

import re
from pathlib import Path

import numpy as np

THEME = Path(__file__).parents[1] / "widgets/theme.css"
_BLOCKS = re.findall(r"\{([^{}]*)\}", THEME.read_text(encoding="utf-8"))
LIGHT, DARK = (dict(re.findall(r"--([a-z-]+):\s*(#[0-9a-f]{6});", block)) for block in _BLOCKS)
# Found by maximising the smallest OKLab distance under normal, deuteranope and protanope vision (Machado, Oliveira &
# Fernandes 2009, severity 1) among colours whose contrast is at least 3 on white and on the dark grounds up to #1e1e1e.
PALETTE = tuple(LIGHT[f"edge-surface-{name}"] for name in ("teal", "orange", "violet", "rust", "lilac"))
INK, PAPER = LIGHT["on-surface"], LIGHT["surface"]
_NAMES = {colour: name for name, colour in LIGHT.items() if re.match("surface|on-surface|edge-surface", name)}
GROUNDS = ("#ffffff", "#1e1e1e")  # what a picture may stand on: the lightest page, and of the dark ones the lightest
TEXT, MARK = 4.5, 3.0  # the least contrast, WCAG 2.2, 1.4.3 and 1.4.11

_HUE_ROTATE = np.array([[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]])  # by 180°
_USED = re.compile(r'(fill|stroke)(?:: |=")(#[0-9a-f]{6})')


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.2 of two colours #rrggbb."""
    luminances = []
    for rgb in (_rgb(one), _rgb(other)):
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        luminances.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def mirrored(colour: str) -> str:
    """Return what CSS's `invert(1) hue-rotate(180deg)` makes of a colour."""
    return _hex(_HUE_ROTATE @ (1 - _rgb(colour)))


def legible(colour: str, ground: str, ratio: float) -> str:
    """Return the colour, as much nearer to black or white as the contrast `ratio` on this ground asks for."""
    end = max(("#000000", "#ffffff"), key=lambda end: contrast(end, ground))
    steps = (_hex(_rgb(colour) + share * (_rgb(end) - _rgb(colour))) for share in np.linspace(0, 1, 41))
    return next(step for step in steps if contrast(step, ground) >= ratio)


def pair(colour: str, text: bool = False) -> tuple[str, str]:
    """Return a colour of a picture as it is on a light page and on a dark one. What is written is legible on both."""
    both = colour, DARK[_NAMES[colour]] if colour in _NAMES else mirrored(colour)
    if not text or colour == PAPER:  # paper is written on a mark, not on the page
        return both
    light, dark = (legible(each, ground, TEXT) for each, ground in zip(both, GROUNDS, strict=True))
    return light, dark


def adaptive(svg: str) -> str:
    """Make a picture for `<img>` whose colours follow the page, with a style sheet of its own.

    What stands in a group whose id begins with "on-image" keeps its colour, as the image below it does.
    """
    inside = ':not([id^="on-image"] *)' if 'id="on-image' in svg else ""
    written = {use for tag in re.findall(r"<t(?:ext|span)\b[^>]*>", svg) for use in _USED.findall(tag)}
    ink = "light-dark({},{})".format(*pair(INK))  # of what names no colour, which SVG would paint black
    rules = [f":root{{color-scheme:light dark;fill:{ink}}}", "text{font-family:system-ui,sans-serif}"]
    if inside:
        rules.append('[id^="on-image"]{fill:#000000}')
    for tags, uses in ((("",), set(_USED.findall(svg))), (("text", "tspan"), written)):
        for name, colour in sorted(uses):
            at = f'[style*="{name}: {colour}"]', f'[{name}="{colour}"]'
            where = ",".join(f"{tag}{attribute}{inside}" for tag in tags for attribute in at)
            light, dark = pair(colour, text=tags != ("",))
            rules.append(f"{where}{{{name}:light-dark({light},{dark})!important}}")
    return re.sub(r"(<svg [^>]*>)", lambda start: f"{start[1]}<style>{''.join(rules)}</style>", svg, count=1)


def themed(svg: str) -> str:
    """Make a picture part of a page with theme.css: its colours are that page's."""
    return _USED.sub(lambda use: use[0].replace(use[2], f"var(--{_NAMES[use[2]]})"), svg)


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def _hex(rgb: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in np.clip(rgb, 0, 1))
