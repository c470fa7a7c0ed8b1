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

from peft_lessons.classroom.output import colours, figures
from peft_lessons.classroom.output.colours import GROUNDS, INK, PALETTE
from peft_lessons.classroom.output.figures import MEASURED, Measured, figure, new_figure, number, table
from peft_lessons.classroom.output.labels import label_lines, overlapping_labels

# Machado, Oliveira & Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009,
# severity 1.0; they apply to linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


# What Chromium 156 shows for `filter: invert(1) hue-rotate(180deg)`.
MIRRORED_BY_A_BROWSER = {
    **{"#217382": "#5badbc", "#ef6b1f": "#eb671b", "#8640f5": "#cd87ff", "#c23901": "#ff945c", "#908ecb": "#6967a4"},
    **{"#1c2024": "#dce0e4", "#555555": "#aaaaaa", "#ffffff": "#000000"},
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
@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_stay_apart_for_every_colour_vision(vision, theme):
    seen = [lab(np.array(VISION[vision]) @ linear(colours.pair(colour)[theme])) for colour in PALETTE]
    distances = {
        pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(range(len(PALETTE)), 2)
    }
    assert min(distances.values()) > 15, distances  # 2.3 is just noticeable
    assert np.linalg.norm(seen[0] - seen[1]) > 35, "the first two, which most figures use"


@pytest.mark.parametrize("ground", ["#ffffff", "#111111", "#16191d", "#1e1e1e"])
def test_colours_stand_out_on_light_and_dark(ground):
    """The light ones on dark grounds, too: what became pixels in a large figure stays as it is."""
    assert all(contrast(colour, ground) >= 3 for colour in PALETTE)
    if ground != "#ffffff":
        assert all(contrast(colours.pair(colour)[1], ground) >= 3 for colour in PALETTE)


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
    assert fig.get_facecolor()[3] == axes[0].get_facecolor()[3] == 0, "the page's ground shows, light or dark"


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


def drawn(monkeypatch, fig):
    """The SVG that `figure` shows."""
    html, _ = shown(monkeypatch, lambda: figure(fig, alt="a picture", caption="A picture."))
    return base64.b64decode(Images(html).found[0]["src"].split(",")[1]).decode()


def test_a_large_figure_keeps_its_words_and_becomes_pixels(monkeypatch):
    fig, axes = new_figure(width=6)
    axes.plot(*np.random.default_rng(0).normal(size=(2, 20_000)), "o")
    axes.set_xlabel("where it stands")
    source = drawn(monkeypatch, fig)
    assert len(source) < figures.LARGEST_SVG
    assert source.count("<image") == 1 and ">where it stands</text>" in source


def test_dots_of_a_hatch_do_not_fill_the_file(monkeypatch):
    fig, axes = new_figure()
    axes.bar([1, 2], [1, 2], hatch="....", edgecolor="white")
    source = drawn(monkeypatch, fig)
    assert "<pattern" in source and len(source) < figures.LARGEST_SVG


# Colours that follow the page


def rules(source):
    """What the style sheet says: [(tag or "", property, colour in the file, light, dark)]."""
    found = re.findall(r"([^{}]+)\{(fill|stroke):light-dark\((#\w+),(#\w+)\)!important\}", source)
    return [
        (tag, name, re.search(r"#[0-9a-f]{6}", selector)[0], light, dark)
        for selector, name, light, dark in found
        for tag in {each.partition("[")[0] for each in selector.split(",")}
    ]


def test_what_is_written_and_drawn_stands_out_on_light_and_dark(monkeypatch):
    fig, axes = new_figure()
    for i, colour in enumerate([*PALETTE, "#555555", "#888888"]):
        axes.plot([1, 2], [i, i + 1], color=colour)
        axes.text(1.5, i, f"label {i}", color=colour)
    axes.text(1.2, 3, "in no colour of its own")
    source = drawn(monkeypatch, fig)
    found = rules(source)
    assert {colour for _, _, colour, *_ in found} >= {*PALETTE, "#555555", "#888888", INK}
    for tag, _, colour, *both in found:
        for shown_as, ground in zip(both, GROUNDS, strict=True):
            assert contrast(shown_as, ground) >= (4.5 if tag else 3), (tag, colour, shown_as)
    ink = re.search(r":root\{color-scheme:light dark;fill:light-dark\((#\w+),(#\w+)\)\}", source)
    assert all(contrast(colour, ground) >= 4.5 for colour, ground in zip(ink.groups(), GROUNDS, strict=True))


def test_the_series_of_the_page_are_those_of_the_pictures():
    """A live figure's pixels are turned by a filter, so what it shows on a dark page is the mirror of the palette."""
    for colour in PALETTE:
        _, dark = colours.pair(colour)
        assert dark in colours.DARK.values()
        assert np.abs(colours._rgb(dark) - colours._rgb(colours.mirrored(colour))).max() < 0.01


def test_the_mirror_is_that_of_css():
    for colour, seen in MIRRORED_BY_A_BROWSER.items():
        assert np.abs(colours._rgb(colours.mirrored(colour)) - colours._rgb(seen)).max() < 0.01


def test_what_lies_on_an_image_keeps_its_colour(monkeypatch):
    fig, axes = new_figure()
    axes.imshow(np.eye(2))
    axes.text(0, 0, "1", color="black")
    axes.text(1, 0, "0", color="white")
    source = drawn(monkeypatch, fig)
    assert source.count('<g id="on-image-') == 2
    selectors = re.findall(r"([^{}]+)\{(?:fill|stroke):light-dark", source)
    assert selectors and all(each.endswith(':not([id^="on-image"] *)') for each in selectors[0].split(","))
    assert '[id^="on-image"]{fill:#000000}' in source


def test_white_in_a_picture_is_the_paper(monkeypatch):
    fig, axes = new_figure()
    axes.barh(["a"], [1], hatch="//", edgecolor="white")
    axes.text(0.5, 0, "inside", color="white")
    whites = {(light, dark) for _, _, colour, light, dark in rules(drawn(monkeypatch, fig)) if colour == "#ffffff"}
    assert whites == {("#ffffff", colours.DARK["surface"])}


# Labels


def test_labels_over_each_other_and_cut_off_are_named(monkeypatch):
    fig, axes = new_figure()
    axes.plot([0, 1])
    axes.annotate("rank 64", (0.5, 0.5))
    axes.annotate("rank 32", (0.52, 0.51))
    axes.text(1, 0.2, "far out", transform=axes.transAxes, clip_on=False).set_in_layout(False)
    axes.annotate("alone", (0.1, 0.8))
    assert overlapping_labels(fig) == [("'rank 64'", "'rank 32'"), ("'far out'", "the edge of the figure")]
    with pytest.warns(UserWarning, match="lies over") as warned:
        shown(monkeypatch, lambda: figure(fig, alt="a line", caption="A line."))
    first, second = (str(warning.message) for warning in warned)
    assert first == "in this figure 'rank 64' lies over 'rank 32': move one of them"
    assert "'far out' lies over the edge of the figure" in second


def test_ticks_titles_and_legends_count_as_labels():
    fig, axes = new_figure(width=3)
    axes.plot([0, 1], label="a line")
    axes.set_xticks([0, 0.02, 1, 9], ["first", "second", "third", "not shown"])
    axes.set_xlim(0, 1)
    axes.text(0.5, 0.9, "in the legend's place", transform=axes.transAxes, ha="center")
    axes.legend(loc="upper center")
    found = {frozenset(pair) for pair in overlapping_labels(fig)}
    assert found == {frozenset({"'first'", "'second'"}), frozenset({'"in the legend\'s place"', "the legend"})}


@pytest.mark.parametrize("rotation", [0, 30, 90])
def test_turned_labels_are_measured_as_they_stand(rotation):
    """Level names overlap; turned by 30° their upright boxes would, but they do not."""
    fig, axes = new_figure(width=4, height=3)
    axes.bar(["a rather long name", "another long name", "the third long name"], [1, 2, 3])
    axes.tick_params(axis="x", rotation=rotation)
    assert bool(overlapping_labels(fig)) is (rotation == 0)


def test_lines_carry_their_names():
    fig, axes = new_figure()
    x = np.arange(5.0)
    for i, name in enumerate(["LoRA", "DoRA", "VeRA"]):
        axes.plot(x, x + 0.01 * i, label=name)
    axes.plot(x, [3, 2, 1, 0, np.nan], label="falls and ends early")
    axes.plot(x, x, label="_no name")
    axes.legend()
    label_lines(axes)
    labels = {label.get_text(): label for label in axes.texts}
    assert list(labels) == ["LoRA", "DoRA", "VeRA", "falls and ends early"]
    assert axes.get_legend() is None
    assert overlapping_labels(fig) == []
    heights = [labels[name].get_window_extent().y0 for name in ("LoRA", "DoRA", "VeRA")]
    assert heights == sorted(heights), "in the order of their lines"
    assert labels["falls and ends early"].xy == (3, 0)
    assert labels["LoRA"].get_color() == axes.lines[0].get_color()


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


def test_a_column_of_sentences_begins_at_the_left(monkeypatch):
    """JupyterLab ends the text of all cells at the right, which suits numbers."""
    rows = [["LoRA", "a sentence that has more than a few words", 1], ["full", "short", 2]]
    html, _ = shown(monkeypatch, lambda: table(rows, ["method", "says", "count"], caption="c"))
    left = ' style="text-align: left"'
    assert f'<th scope="col">method</th><th scope="col"{left}>says</th><th scope="col">count</th>' in html
    assert f"<tr><td>full</td><td{left}>short</td><td>2</td></tr>" in html
    assert figures.html_table([], ["method", "says"]).count('<th scope="col">') == 2


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


def test_letters_of_one_width_stay_so():
    """All else is written in the page's own font."""
    fig, axes = new_figure()
    axes.text(0, 0, "each", family="monospace")
    axes.text(0, 0.5, "words")
    source = figures._written(fig)
    styles = dict(re.findall(r'<text style="([^"]*)"[^>]*>(each|words)<', source))
    assert {word: "monospace" in style for style, word in styles.items()} == {"each": True, "words": False}
    assert source.count("font-family") == 1
