"""The sweep: what it draws is what was computed, in Python's picture and in the browser's, and the rest is refused."""

import base64
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
import traitlets
from javascript import run_node_tests

from peft_lessons.classroom.output import colours
from peft_lessons.classroom.output.figures import Measured
from peft_lessons.classroom.widgets.sweep import Frame, sweep

SVG = "{http://www.w3.org/2000/svg}"
X = np.arange(1, 61)
WORDS = {
    "x_label": "step",
    "y_label": "loss",
    "title": "Loss & <rank>",
    "caption": "It `falls`.",
    "alt": 'two "curves" <down>',
}


def losses(rank, bits):
    """Two curves; the second has a gap and, at one setting, a single point."""
    noisy = 3.0 / (X + rank) + 1 / bits
    noisy[10:20] = np.nan
    if rank == 8:
        noisy[:] = np.nan
        noisy[4] = 2.0
    return Frame(
        {"smooth": 2.5 * np.exp(-X * rank / 80) + 0.1, "noisy": noisy}, {"trainable": rank * 1536, "at": f"{bits} bits"}
    )


def make(compute=losses, **changes):
    return sweep(compute, **{"settings": {"rank": [1, 2, 4, 8], "bits": range(2, 5)}, "x": X, **WORDS, **changes})


def one(values, **changes):
    """A sweep with one series and one slider, the same at all its values."""
    return make(
        lambda n: Frame({"y": values}), **{"settings": {"n": [1, 2]}, "x": np.arange(1, 1 + len(values)), **changes}
    )


def axis_of(svg, horizontal):
    """The way back from pixels to values, read off two of the drawing's own labelled ticks: (slope, offset)."""
    wanted = "middle" if horizontal else "end"
    ticks = []
    for text in svg.iter(f"{SVG}text"):
        label = (text.text or "").replace("−", "-").replace(",", "")
        if text.get("text-anchor") == wanted and re.fullmatch(r"-?[\d.]+(e-?\d+)?", label):
            # A horizontal tick's text stands centred on its place, a vertical one's baseline 4 pixels below it.
            ticks.append((float(text.get("x")) if horizontal else float(text.get("y")) - 4, float(label)))
    return ticks


def values_at(svg, pixels, horizontal, log):
    """What pixels mean, by a straight line through the first and last tick."""
    ticks = axis_of(svg, horizontal)
    (p0, v0), (p1, v1) = ticks[0], ticks[-1]
    if log:
        v0, v1 = np.log10([v0, v1])
    found = v0 + (np.asarray(pixels) - p0) / (p1 - p0) * (v1 - v0)
    return 10**found if log else found


def points(path):
    """The vertices (n, 2) of a path of M and L."""
    return np.array([[float(number) for number in pair] for pair in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)])


def picture_of(widget):
    """The static picture, parsed."""
    source = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', widget._repr_mimebundle_()[0]["text/html"])
    return ElementTree.fromstring(base64.b64decode(source[1]))


@pytest.mark.parametrize("log", [False, True])
def test_every_path_reads_back_as_what_was_computed(log):
    widget = make(y_scale="log" if log else "linear", x_scale="log" if log else "linear")
    svg = ElementTree.fromstring(widget.drawing)
    for i, (rank, bits) in enumerate([(rank, bits) for rank in (1, 2, 4, 8) for bits in (2, 3, 4)]):
        for name, path in zip(("smooth", "noisy"), widget.frames[i]["paths"], strict=True):
            expected = losses(rank, bits).series[name]
            known = np.isfinite(expected)
            drawn = points(path)
            assert len(drawn) == known.sum()
            x, y = values_at(svg, drawn[:, 0], True, log), values_at(svg, drawn[:, 1], False, log)
            if log:
                np.testing.assert_allclose(x, X[known], rtol=0.002)
                np.testing.assert_allclose(y, expected[known], rtol=0.002)
            else:
                np.testing.assert_allclose(x, X[known], atol=0.02)
                np.testing.assert_allclose(y, expected[known], atol=0.003)
            assert path.count("M") == (2 if name == "noisy" and rank < 8 else 1), "a gap breaks the line"


def test_the_axis_is_the_same_at_every_setting_and_holds_all():
    widget = make()
    drawn = np.concatenate([points(path) for frame in widget.frames for path in frame["paths"]])
    clip = ElementTree.fromstring(widget.drawing).find(f"{SVG}svg")
    left, top, width, height = (float(clip.get(key)) for key in ("x", "y", "width", "height"))
    assert ((drawn[:, 0] >= left) & (drawn[:, 0] <= left + width)).all()
    assert ((drawn[:, 1] >= top) & (drawn[:, 1] <= top + height)).all()


def test_bars_stand_on_zero_and_side_by_side():
    widget = make(
        lambda n: Frame({"a": [1.0 * n, -2.0, np.nan], "b": [4.0, 5.0, 6.0]}),
        settings={"n": [1, 2]}, x=["NF4", "FP4", "int4"], kind="bar",
    )  # fmt: skip
    svg = ElementTree.fromstring(widget.drawing)
    assert {"NF4", "FP4", "int4"} <= {text.text for text in svg.iter(f"{SVG}text")}
    ticks = dict((value, pixel) for pixel, value in axis_of(svg, False))
    bars = [re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)H([\d.]+)V([\d.]+)Z", path) for path in widget.frames[1]["paths"]]
    assert [len(found) for found in bars] == [2, 3]
    (a0, a1), b = np.array(bars[0], dtype=float), np.array(bars[1], dtype=float)
    assert a0[1] == a0[4] == pytest.approx(ticks[0], abs=0.1)
    assert values_at(svg, [a0[2], a1[2]], False, False) == pytest.approx([2, -2], abs=0.03)
    assert a0[3] == pytest.approx(b[0, 0], abs=0.1), "the second bar begins where the first ends"
    assert (b[1:, 0] > b[:-1, 3]).all(), "and the groups stand apart"


def test_steps_hold_a_value_until_the_next():
    path = one([1.0, 3.0, 2.0], kind="step").frames[0]["paths"][0]
    assert re.fullmatch(r"M[\d.]+ [\d.]+(H[\d.]+V[\d.]+){2}", path)


def test_a_point_without_neighbours_is_seen():
    frame = make().frames[-1]
    assert points(frame["paths"][1]).shape == (1, 2)
    assert frame["marks"][1].count("z") == 1


def test_constant_single_and_integer_series():
    for values in ([2.0], [0.0, 0.0], torch.tensor([3, 3]), [1e-12, 2e-12]):
        assert "nan" not in one(values).drawing
    assert "nan" not in one([5.0], kind="bar").drawing
    assert "nan" not in one([5.0, 5.0], y_scale="log", x_scale="log").drawing


# The browser's side.


def in_the_browser(widget):
    """The widget's state and script, as the browser gets them."""
    state = {key: value for key, value in widget.get_state().items() if key != "layout"}
    return state.pop("_esm"), {key: value for key, value in state.items() if not key.startswith("_")}


def test_the_browser_shows_what_python_computed(tmp_path):
    widget = make()

    def expected(i, j):
        rank, bits = (1, 2, 4, 8)[i], (2, 3, 4)[j]
        frame = widget.frames[3 * i + j]
        for path, values in zip(frame["paths"], losses(rank, bits).series.values(), strict=True):
            assert len(points(path)) == np.isfinite(values).sum()
        return {
            "position": [i, j],
            "values": [i, j],
            "numbers": [str(rank), str(bits)],
            "valueTexts": [str(rank), str(bits)],
            "paths": frame["paths"],
            "marks": frame["marks"],
            "readouts": [["trainable", f"{rank * 1536:,}"], ["at", f"{bits} bits"]],
        }

    evil = "<script>alert(1)</script>"
    hostile = make(
        lambda n: Frame({evil: [1.0]}, {evil: evil}), settings={"n": [1]}, x=[1], title=evil, caption=evil, alt=evil
    )
    esm, state = in_the_browser(widget)
    cases = {
        "two sliders": {
            "state": state,
            "start": {
                **expected(2, 1),
                "names": ["rank", "bits"],
                "ends": [[0, 3], [0, 2]],
            },
            "moves": [[0, 0, expected(0, 1)], [1, 2, expected(0, 2)], [0, 3, expected(3, 2)]],
            "saves": 1,  # three quick moves are one message
            "fromPython": {"position": [1, 0]},
            "after": expected(1, 0),
            "page": {
                "disabled": [False, False],
                "described": [WORDS["alt"]],
                "title": WORDS["title"],
                "caption": "It <code>falls</code>.",
            },
        },
        "hostile words": {
            "state": in_the_browser(hostile)[1],
            "start": {"disabled": [True], "readouts": [[evil, evil]]},
            "moves": [],
            "saves": 0,
            "fromPython": {},
            "after": {"position": [0]},
            "page": {"scripts": 0, "described": [evil], "title": evil},
        },
    }
    run_node_tests("sliders.test.js", {"esm": esm, "cases": cases}, tmp_path)
    assert "<script" not in hostile._repr_mimebundle_()[0]["text/html"]


def methods(method, checkpointing, rank):
    low = np.array([np.nan, 2.0, np.nan, 3.0])
    values = np.arange(4.0) + 10 * rank + 100 * checkpointing + len(method)
    return Frame({"steps": Measured(values), "gaps": low + checkpointing}, {"rank": rank})


def test_controls_and_points_in_the_browser(tmp_path):
    widget = make(
        methods,
        settings={"method": ["LoRA", "DoRA", "VeRA"], "checkpointing": [False, True], "rank": [1, 2, 3]},
        start={"checkpointing": False},
        x=[10, 20, 30, 40],
    )
    esm, state = in_the_browser(widget)
    at = 1 * 6 + 0 * 3 + 1
    points = [
        [f"steps, step {x}: ≈ {value}.0" for x, value in zip((10, 20, 30, 40), (24, 25, 26, 27), strict=True)],
        ["gaps, step 20: 2.00", "gaps, step 40: 3.00"],
    ]
    run_node_tests("controls.test.js", {"esm": esm, "state": state, "at": at, "points": points}, tmp_path)


def test_bars_name_themselves():
    widget = one([1.0, np.nan, 3.0], x=["NF4", "FP4", "int4"], kind="bar")
    assert widget.frames[0]["points"] == [["NF4: 1.00", "int4: 3.00"]]
    assert (widget.series, widget.x_name) == (["y"], "")


def test_a_page_without_jupyter(tmp_path):
    esm, state = in_the_browser(make(methods, settings={"method": ["LoRA", "DoRA"], "checkpointing": [True, False],
                                                        "rank": [1, 2]}, x=range(4)))  # fmt: skip
    case = {"shows": ["Loss & <rank>", "DoRA"], "press": ["[role=switch]", "[type=radio]"], "showsThen": ["rank"]}
    run_node_tests("plain.test.js", {"esm": esm, "state": state, **case, "then": {"position": [0, 0, 1]}}, tmp_path)


# The forms without a browser.


def test_text_prints_the_numbers_at_several_settings():
    text = repr(make())
    assert text.splitlines()[:6] == [
        "[Sweep] Loss & <rank> (rank: 1, 2, 4, 8, bits: 2, 3, 4)",
        "It `falls`.",
        "",
        "rank  bits  trainable  at      smooth         noisy",
        "1     3     1,536      3 bits  1.28 to 2.57   0.383 to 1.83 (10 missing)",
        "2     3     3,072      3 bits  0.658 to 2.54  0.382 to 1.33 (10 missing)",
    ]
    assert len(text.splitlines()) == 4 + 4 + 3 - 1
    assert "2.00 (59 missing)" in text


def test_text_shows_an_error_in_any_value():
    """An off-by-one in what is computed must change the stored output."""

    def wrong(rank, bits):
        return losses(rank, bits + 1)

    assert repr(make()) != repr(make(lambda rank, bits: Frame(wrong(rank, bits).series, losses(rank, bits).readouts)))


def test_measured_values_are_marked():
    text = repr(
        make(lambda n: Frame({"loss": Measured([1.0, 2.0])}, {"final": Measured(2.0)}), settings={"n": [1]}, x=[1, 2])
    )
    assert text.splitlines()[-1] == "1  ≈ 2.00       ≈ 1.00 to ≈ 2.00"


def test_static_picture_follows_the_page_and_shows_the_first_position():
    widget = make()
    before = widget._repr_mimebundle_()[0]
    svg = picture_of(widget)
    assert svg.find(f"{SVG}rect") is None, "no ground but the page's"
    rules = re.findall(r"(fill|stroke):light-dark\((#\w+),(#\w+)\)", svg.find(f"{SVG}style").text)
    assert {light for _, light, _ in rules} >= {colours.INK, *colours.PALETTE[:2]}
    for _, *both in rules:
        assert all(colours.contrast(*each) >= 3 for each in zip(both, colours.GROUNDS, strict=True))
    assert [path.get("d") for path in svg.iter(f"{SVG}path") if path.get("data-series")] == widget.frames[2 * 3 + 1][
        "paths"
    ]
    assert "Picture at rank 4, bits 3." in before["text/html"]
    assert 'alt="two &quot;curves&quot; &lt;down&gt;"' in before["text/html"]
    assert "It <code>falls</code>." in before["text/html"]
    widget.position = [0, 0]
    after = widget._repr_mimebundle_()[0]
    assert all(before[form] == after[form] for form in ("text/plain", "text/html")), (
        "where the sliders stand is not stored"
    )
    again = make()._repr_mimebundle_()[0]
    assert all(before[form] == again[form] for form in ("text/plain", "text/html")), "no address, no time, no random id"


def test_a_live_picture_takes_its_colours_from_the_page():
    for drawing in (make().drawing, make().narrow):
        assert not re.search(r"#[0-9a-f]{6}", drawing)
        known = {f"var(--{name})" for name in colours.LIGHT}
        assert set(re.findall(r"var\([^)]*\)", drawing)) <= known


def test_names_below_do_not_touch_each_other():
    """On a phone: names in two rows, every other number."""
    named = one([1.0] * 7, x=["full", "LoHa", "AdaLoRA", "rsLoRA", "prefix tuning", "VeRA", "IA³"], kind="bar")
    numbers = one([1.0] * 8, x=[1, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 70_000])

    def below(drawing):
        texts = [text for text in ElementTree.fromstring(drawing).iter(f"{SVG}text") if not text.get("transform")]
        return [
            (float(text.get("x")), float(text.get("y")), text.text)
            for text in texts
            if text.get("text-anchor") == "middle"
        ][:-1]  # the last is the axis's own name

    assert [len({y for _, y, _ in below(drawing)}) for drawing in (named.drawing, named.narrow)] == [1, 2]
    assert [len(below(drawing)) for drawing in (numbers.drawing, numbers.narrow)] == [8, 4]


def test_controls_follow_from_the_values():
    settings = {"a": [1, 2.5], "b": ["yes", "no"], "c": [False, True], "d": ["LoRA", "DoRA"], "e": [1, "all"]}
    widget = make(lambda **_: Frame({"y": [1.0]}), settings=settings, x=[1])
    assert [each["control"] for each in widget.sliders] == ["slider", "switch", "switch", "choice", "choice"]
    assert widget.sliders[2]["labels"] == ["no", "yes"]


def test_where_it_starts():
    widget = make(start={"rank": 8})
    assert widget.setting == {"rank": 8, "bits": 3}
    assert "Picture at rank 8, bits 3." in widget._repr_mimebundle_()[0]["text/html"]
    drawn = [path.get("d") for path in picture_of(widget).iter(f"{SVG}path") if path.get("data-series")]
    assert drawn == widget.frames[3 * 3 + 1]["paths"]
    assert [line.split()[:2] for line in repr(widget).splitlines()[4:]] == [
        ["1", "3"], ["2", "3"], ["4", "3"], ["8", "2"], ["8", "3"], ["8", "4"]
    ]  # fmt: skip
    assert repr(make(start={})) == repr(make()) == repr(make(start={"rank": 4, "bits": 3}))


def test_the_setting_comes_back_to_python():
    widget = make(settings={"rank": [1, 2, 4, 8], "bits": range(2, 5)})
    assert widget.setting == {"rank": 4, "bits": 3}
    widget.set_state({"position": [3, 0]})  # the front end's way in
    assert widget.setting == {"rank": 8, "bits": 2}
    for wrong in ([4, 0], [0], [-1, 0]):
        with pytest.raises(traitlets.TraitError, match="does not fit sliders with"):
            widget.position = wrong


# What is refused, and how it is said.


def frame(**parts):
    return lambda n: Frame(**{"series": {"y": [1.0, 2.0]}, **parts})


@pytest.mark.parametrize(
    ("compute", "changes", "error", "message"),
    [
        (frame(), {"settings": {}}, ValueError, "settings is empty"),
        (frame(), {"start": {"rnk": 1}}, ValueError, "start names 'rnk', which is no setting; the settings are n"),
        (frame(), {"start": {"n": 3}}, ValueError, "start sets 'n' to 3; its values are 1, 2"),
        (frame(), {"settings": {"n": []}}, ValueError, "'n' has no values"),
        (frame(), {"settings": {"n": [1, 2, 1]}}, ValueError, "shows a value twice: 1, 2, 1"),
        (frame(), {"settings": {"n": range(3000)}}, ValueError, "3,000 combinations"),
        (frame(), {"settings": {"rank": [1]}}, TypeError, "cannot be called with the settings rank"),
        (frame(), {"kind": "pie"}, ValueError, "'pie'; it can be 'line', 'bar', 'step'"),
        (frame(), {"y_scale": "sqrt"}, ValueError, "y_scale is 'sqrt'"),
        (frame(), {"alt": " "}, ValueError, "alt is ' '"),
        (frame(), {"y_range": (2, 1)}, ValueError, "low < high"),
        (frame(), {"y_range": (0, 1), "y_scale": "log"}, ValueError, "low > 0"),
        (frame(), {"x": None}, ValueError, r"compute\(n=1\): give x"),
        (frame(x=[1, 2]), {}, ValueError, r"compute\(n=1\): give x"),
        (frame(), {"x": [1, np.nan]}, ValueError, "finite"),
        (frame(), {"x": [0, 1], "x_scale": "log"}, ValueError, "x has the value 0"),
        (frame(series={"y": [1.0]}), {}, ValueError, r"compute\(n=1\): series 'y' has shape \(1,\), but x has \(2,\)"),
        (frame(series={"y": [1.0, 0.0]}), {"y_scale": "log"}, ValueError, "'y' has the value 0"),
        (frame(series={}), {}, ValueError, "0 series"),
        (frame(series={str(i): [1, 2] for i in range(6)}), {}, ValueError, "6 series"),
        (frame(series={"y": [np.nan, np.nan]}), {}, ValueError, "no series has a finite value"),
        (lambda n: {"y": [1, 2]}, {}, TypeError, r"compute\(n=1\) returned dict"),
        (lambda n: Frame({"y" * n: [1, 2]}), {}, ValueError, r"compute\(n=2\) has the series \['yy'\], but the first"),
        (lambda n: Frame({"y": [1, 2]}, {"r" * n: 1}), {}, ValueError, r"compute\(n=2\) has the readouts \['rr'\]"),
    ],
)  # fmt: skip
def test_refused(compute, changes, error, message):
    with pytest.raises(error, match=message):
        make(compute, **{"settings": {"n": [1, 2]}, "x": [1, 2], **changes})


@pytest.mark.slow
def test_too_large_a_drawing_is_refused():
    with pytest.raises(ValueError, match="fewer settings or fewer points"):
        one(np.arange(50_000.0), settings={"n": range(20)})
