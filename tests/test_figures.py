"""Figures and tables: colours that stay apart, forms that survive, numbers that read well."""

import base64
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

from peft_lessons.classroom.output import figures
from peft_lessons.classroom.output.figures import MEASURED, PALETTE, Measured, figure, new_figure, number, table

# Machado, Oliveira & Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009,
# severity 1.0; they apply to linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    """Linear RGB (3,) of #rrggbb, by the sRGB standard's curve."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear RGB: another measure of distance than the one that chose the colours."""
    xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    ratio = xyz @ np.clip(rgb, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(first: str, second: str) -> float:
    """The contrast ratio of WCAG 2.2."""
    a, b = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (first, second))
    return (b + 0.05) / (a + 0.05)


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_every_colour_vision(vision):
    seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in PALETTE]
    distances = {
        pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(range(len(PALETTE)), 2)
    }
    assert min(distances.values()) > 15, distances  # 2.3 is just noticeable
    assert np.linalg.norm(seen[0] - seen[1]) > 35, "the first two, which most figures use"


@pytest.mark.parametrize("ground", ["#ffffff", "#111111", "#16191d", "#1e1e1e"])
def test_colours_stand_out_on_light_and_dark(ground):
    assert all(contrast(colour, ground) >= 3 for colour in PALETTE)


def test_lines_differ_in_more_than_colour():
    _, axes = new_figure()
    lines = [axes.plot([1, 2, 3])[0] for _ in PALETTE]
    for look in ("get_color", "get_marker", "_unscaled_dash_pattern"):
        looks = [getattr(line, look) for line in lines]
        looks = [value() if callable(value) else value for value in looks]
        assert len(set(looks)) == len(PALETTE), (look, looks)
    assert len(set(figures.DASHES)) == len(set(figures.MARKERS)) == len(PALETTE)


def test_new_figure_keeps_out_of_pyplot_and_leaves_settings_alone():
    before = dict(pyplot.rcParams)
    fig, axes = new_figure(1, 2, sharey=True)
    assert axes.shape == (2,)
    assert pyplot.get_fignums() == []
    assert dict(pyplot.rcParams) == before
    assert fig.get_facecolor() == (1, 1, 1, 1), "opaque white, so that dark ink is legible on a dark page"


class Images(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.found: list[dict[str, str]] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.found.append(dict(attributes))


def shown(monkeypatch, call):
    """The two forms of what `call` displays."""
    bundles = []
    monkeypatch.setattr(figures, "display", lambda bundle, raw: bundles.append(bundle))
    call()
    assert len(bundles) == 1
    assert set(bundles[0]) == {"text/html", "text/plain"}
    return bundles[0]["text/html"], bundles[0]["text/plain"]


def test_figure_has_its_picture_words_and_caption(monkeypatch):
    fig, axes = new_figure()
    axes.plot([1, 2])
    alt, caption = 'a "line" <rising> & straight', "`W` stays <frozen> & *small*"
    html, text = shown(monkeypatch, lambda: figure(fig, alt=alt, caption=caption))
    images = Images(html)
    assert images.tags == ["figure", "img", "figcaption", "code", "em"], "and nothing of what the words contain"
    assert images.found[0]["alt"] == alt
    assert "&lt;frozen&gt; &amp; <em>small</em>" in html
    head, data = images.found[0]["src"].split(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(data).startswith(b"<?xml")
    assert text == f"[Figure] {caption}\n{alt}"


def test_the_same_figure_is_the_same_bytes(monkeypatch):
    def draw():
        fig, axes = new_figure()
        axes.plot([1, 2], label="a")
        axes.legend()
        return shown(monkeypatch, lambda: figure(fig, alt="a line", caption="A line."))

    assert draw() == draw()


def test_a_large_figure_is_a_png_of_the_same_size_on_the_page(monkeypatch):
    fig, axes = new_figure(width=6)
    axes.plot(*np.random.default_rng(0).normal(size=(2, 20_000)), "o")
    html, _ = shown(monkeypatch, lambda: figure(fig, alt="a cloud", caption="A cloud."))
    image = Images(html).found[0]
    assert image["src"].startswith("data:image/png;base64,")
    assert image["width"] == "576"  # 6 inches at 96 pixels
    assert base64.b64decode(image["src"].split(",")[1]).startswith(b"\x89PNG")


def test_no_grid_over_an_image(monkeypatch):
    fig, (image, lines) = new_figure(1, 2)
    image.imshow(np.eye(3))
    lines.plot([1, 2])
    shown(monkeypatch, lambda: figure(fig, alt="a diagonal", caption="A diagonal, and a line."))
    visible = [[line.get_visible() for line in axes.get_xgridlines()] for axes in (image, lines)]
    assert not any(visible[0]) and all(visible[1])


def test_figure_closes_what_pyplot_opened(monkeypatch):
    fig = pyplot.figure()
    fig.add_subplot().plot([1])
    shown(monkeypatch, lambda: figure(fig, alt="a point", caption="A point."))
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    "words", [{"alt": "", "caption": "c"}, {"alt": " ", "caption": "c"}, {"alt": "a", "caption": ""}]
)
def test_figure_without_words_is_refused(words):
    empty = next(name for name, text in words.items() if not text.strip())
    with pytest.raises(ValueError, match=empty):
        figure(Figure(), **words)


def test_figure_of_axes_is_refused():
    _, axes = new_figure()
    with pytest.raises(TypeError, match=r"axes\.figure"):
        figure(axes, alt="a", caption="c")


def test_table_in_both_forms(monkeypatch):
    rows = [["LoRA <r>", 12288, 0.5772], ["full", 134_515_008, float("nan")]]
    html, text = shown(monkeypatch, lambda: table(rows, ["method", "trainable", "loss"], caption="What trains"))
    assert text.splitlines() == [
        "What trains",
        "",
        "method    trainable    loss",
        "LoRA <r>  12,288       0.577",
        "full      134,515,008  nan",
    ]
    assert "<td>LoRA &lt;r&gt;</td><td>12,288</td><td>0.577</td>" in html
    assert html.count('<th scope="col">') == 3
    assert "<caption>What trains</caption>" in html
    with pytest.raises(ValueError, match=r"3 cells.*2"):
        table(rows, ["method", "trainable"], caption="c")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12288, "12,288"),
        (-3, "−3"),
        (0, "0"),
        (0.0, "0.00"),
        (-0.0, "0.00"),
        (0.57723, "0.577"),
        (0.9996, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1234.5, "1,230"),
        (999_499.0, "999,000"),
        (999_600.0, "1.00e+06"),
        (0.000123456, "0.000123"),
        (0.0000123456, "1.23e−05"),
        (-6.0206, "−6.02"),
        (float("nan"), "nan"),
        (float("-inf"), "−inf"),
        (True, "True"),
        ("12 KB", "12 KB"),
        (np.float32(0.1), "0.100"),
        (np.int64(4096), "4,096"),
        (torch.tensor(2.5, dtype=torch.bfloat16), "2.50"),
        (Measured(2.345), "≈ 2.35"),
        (Measured(torch.tensor(-0.5)), "≈ −0.500"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_a_different_last_digit_moves_nothing_else():
    """What the check of stored outputs relies on: replaced by MEASURED, two machines' tables are the same text."""

    def lines(*values):
        rows = [[f"row {i}", number(Measured(value)), "end"] for i, value in enumerate(values)]
        return re.sub(MEASURED.pattern + " *", "≈ # ", figures.text_table(rows, ["", "loss", "end"]))

    many = [0.0, 1.0, -1.0, 2.31, 0.0998, 0.1001, -0.000123, 1.23e-5, -4.56e-9, 98765.4, 999_999.0, 3e12]
    assert lines(*many) == lines(*[value * 1.013 for value in many])
    assert lines(1.0, 2.0) == lines(-1.23e-5, 123_456.0)
    assert lines(1.0) != lines(float("nan")), "a loss that is no number must not pass"
    for value in many:
        assert MEASURED.fullmatch(number(Measured(value)))
    assert not MEASURED.search(number(0.5) + " " + number(12288)), "what is exact is compared"
