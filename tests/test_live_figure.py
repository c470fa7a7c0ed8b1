"""The live figure: each move draws what a whole redraw would draw, and tells the browser once."""

import base64
import io
import re

import numpy as np
import pytest
from javascript import run_node_tests
from PIL import Image

from peft_lessons.classroom.output import colours, figures
from peft_lessons.classroom.output.figures import Measured
from peft_lessons.classroom.widgets.live_figure import live_figure

WORDS = {"title": "Levels", "caption": "They double with each bit.", "alt": "a wave <rounded>"}
WAVE = np.sin(np.linspace(0, 6, 200))


def setup(axes):
    axes.plot(WAVE)
    axes.set_ylim(-1.2, 1.2)
    (line,) = axes.plot([], [], label="rounded")
    bars = axes.bar([20, 60], [0, 0], width=10)
    return {"line": line, "bars": bars}


def update(artists, bits):
    levels = 2 ** (bits - 1)
    rounded = np.round(WAVE * levels) / levels
    artists["line"].set_data(np.arange(200), rounded)
    for bar, height in zip(artists["bars"], (rounded.max(), rounded.min()), strict=True):
        bar.set_height(height)
    return {"levels": 2 * levels + 1, "error": Measured(float(np.abs(rounded - WAVE).max()))}


def make(setup=setup, update=update, settings=None, start=None):
    return live_figure(setup, update, settings=settings or {"bits": range(1, 6)}, start=start, **WORDS)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


@pytest.mark.slow
def test_a_move_draws_what_a_whole_redraw_draws():
    """The oracle is matplotlib itself: the same artists, not animated, in a figure drawn from nothing."""
    widget = make()
    for bits in (5, 1, 3):
        widget.position = [bits - 1]
        whole = make()._canvas
        for artist in whole.moving:
            artist.set_animated(False)
        whole.update(whole.artists, bits=bits)
        whole.canvas.draw()
        expected = np.asarray(whole.canvas.buffer_rgba()).astype(int)
        seen = pixels(widget.answer["png"])
        assert seen.shape == expected.shape
        # Blitting draws the moving artists last, over the axes' frame, which a whole redraw puts on top: a few pixels.
        assert (np.abs(seen - expected).max(axis=2) > 40).mean() < 0.001
        assert widget.answer["readouts"] == [["levels", str(2**bits + 1)], ["error", widget.answer["readouts"][1][1]]]
        assert widget.answer["readouts"][1][1].startswith("≈ ")


def test_pictures_differ_and_nothing_is_left_behind():
    widget = make()
    first = widget.answer["png"]
    widget.position = [0]
    assert (pixels(widget.answer["png"]) != pixels(first)).any()
    widget.position = [2]
    np.testing.assert_array_equal(pixels(widget.answer["png"]), pixels(first))


@pytest.mark.slow
def test_limits_that_update_changes_are_drawn():
    def widen(artists, bits):
        artists["line"].axes.set_ylim(-bits, bits)
        return update(artists, bits)

    widget = make(update=widen)
    widget.position = [4]
    seen = pixels(widget.answer["png"])
    canvas = make(update=widen)._canvas
    canvas.draw({"bits": 5})
    canvas.limits = ()  # forget the background
    np.testing.assert_array_equal(seen, pixels(canvas.draw({"bits": 5})[0]))


def test_the_browser_is_told_once_per_move(monkeypatch):
    widget = make()
    sent = []
    monkeypatch.setattr(widget, "send_state", lambda key=None: sent.append({key} if isinstance(key, str) else set(key)))
    widget.set_state({"position": [4]})  # the front end's way in
    assert [keys for keys in sent if "answer" in keys] == [{"answer"}]


def test_the_browser_shows_picture_and_readouts(tmp_path):
    widget, other = make(), make()
    other.position = [4]
    state = widget.get_state()
    first, last = (figure.answer | {"png": list(figure.answer["png"])} for figure in (widget, other))
    at_first, at_last = (
        {"pictureBytes": [len(answer["png"])], "readouts": answer["readouts"]} for answer in (first, last)
    )
    case = {
        "state": {key: state[key] for key in ("title", "caption_html", "alt", "sliders", "position", "width")}
        | {"answer": first},
        "start": at_first | {"pictureTypes": ["image/png"]},
        # Until the kernel answers, what was there stays.
        "moves": [[0, 1, at_first | {"numbers": ["2"], "valueTexts": ["2"]}], [0, 3, at_first | {"numbers": ["4"]}]],
        "saves": 2,  # each move is told at once: ipywidgets itself holds back what comes faster than the kernel answers
        "fromPython": {"answer": last, "position": [4]},
        "after": at_last | {"numbers": ["5"]},
        # What was seen needs no kernel, and stays while the kernel, whose last answer is of another place, is asked.
        "then": [[0, 2, at_first], [0, 3, at_first], [0, 4, at_last], [0, 1, at_last]],
        "page": {"described": [WORDS["alt"]], "names": ["bits"]},
    }
    assert at_first["pictureBytes"] != at_last["pictureBytes"]
    assert first["readouts"] != last["readouts"]
    run_node_tests("sliders.test.js", {"esm": state["_esm"], "cases": {"one slider": case}}, tmp_path)


LATE = {
    # The way back leads over what was seen, faster than the kernel can follow; then comes a place that was not.
    "a late answer of a place left since": "2, →3 2, 3! 3, →4 3, 4! 4, →3 3, →2 2, →1 2, 3! 2, 2! 2, 1! 1",
    "the picture follows a hand that is faster": "2, →3 2, →4 2, 3! 3, →1 3, 4! 4, →0 4, 1! 1, 0! 0, →3 3, →4 4",
    "an answer that comes when what was shown before is shown again": "2, →3 2, →2 2, 3! 2, →3 3",
    "the same, with a new place after it": "2, →3 2, →2 2, →1 2, 3! 2, 1! 1",
    "to and fro before the first answer": "2, →3 2, →1 2, →3 2, 3! 3, 1! 3, 3! 3, →1 1",
    "an answer in vain": "2, →3 2, 3? 3, →4 3, 4! 4, →3 4, 3? 3, →2 2, →3 2, →1 2, 3? 3, 1! 1",
}


@pytest.mark.parametrize("story", LATE.values(), ids=LATE.keys())
def test_a_picture_never_goes_back_to_where_the_slider_came_from(story, tmp_path):
    """In a story, →3 is a move, 3! the kernel's answer for that place, 3? one in vain; then what must be shown."""
    widget = make()
    state = widget.get_state()

    def shown(place):
        return {"readouts": [["shown", str(place)]]}

    def answer(place, failed=False):
        return widget.answer | {"position": [place], "failed": failed, "png": list(widget.answer["png"])} | shown(place)

    start, *steps = story.split(", ")
    then = []
    for step in steps:
        what, place = step.split(" ")
        if what[0] == "→":
            then.append([0, int(what[1]), shown(place)])
        else:
            then.append({"answer": answer(int(what[0]), what[1] == "?"), "shows": shown(place)})
    case = {
        "state": {key: state[key] for key in ("title", "caption_html", "alt", "sliders", "position", "width")}
        | {"answer": answer(int(start))},
        "start": shown(start),
        "moves": [],
        "saves": 0,
        "fromPython": {},
        "after": shown(start),
        "then": then,
        "page": {"names": ["bits"]},
    }
    run_node_tests("sliders.test.js", {"esm": state["_esm"], "cases": {"late": case}}, tmp_path)


def test_forms_without_a_browser():
    widget = make()
    data = widget._repr_mimebundle_()[0]
    assert data["text/plain"] == repr(widget)
    lines = repr(widget).splitlines()
    assert lines[:4] == ["[LiveFigure] Levels (bits: 1, 2, 3, 4, 5)", WORDS["caption"], "", "bits  levels  error"]
    for bits, line in enumerate(lines[4:], 1):
        levels = 2 ** (bits - 1)
        error = np.abs(np.round(WAVE * levels) / levels - WAVE).max()
        cells = re.split(r"  +", line)
        assert cells[:2] == [str(bits), str(2**bits + 1)]
        assert float(cells[2].removeprefix("≈ ")) == pytest.approx(error, rel=0.01)
    assert 'alt="a wave &lt;rounded&gt;"' in data["text/html"]
    source = base64.b64decode(re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', data["text/html"])[1]).decode()
    assert len(source) < figures.LARGEST_SVG and ":root{color-scheme:light dark" in source
    assert f"stroke: {colours.PALETTE[1]}" in source, "what moves is in it, too"
    widget.position = [0]
    assert widget._repr_mimebundle_()[0]["text/html"] == data["text/html"]
    assert make()._repr_mimebundle_()[0]["text/plain"] == data["text/plain"]


def test_the_picture_has_no_ground_and_is_legible_on_light_and_dark():
    """On a dark page the style sheet mirrors its pixels, as `mirrored` does: test_figures.py shows it."""
    seen = pixels(make().answer["png"])
    assert (seen[..., 3] == 0).mean() > 0.5 and seen[0, 0, 3] == 0
    drawn = {"#" + bytes(pixel[:3].tolist()).hex() for pixel in seen[seen[..., 3] == 255].reshape(-1, 4)}
    assert drawn >= {colours.INK, *colours.PALETTE[:2]}
    for colour in (colours.INK, *colours.PALETTE):
        for shown, ground in zip((colour, colours.mirrored(colour)), colours.GROUNDS, strict=True):
            assert colours.contrast(shown, ground) >= (4.5 if colour == colours.INK else 3)
    style = colours.THEME.with_name("sliders.css").read_text(encoding="utf-8")
    assert re.search(
        r'\[data-jp-theme-light="false"\] \.peft-figure > img[^{]*\{\s*filter: invert\(1\) hue-rotate\(180deg\)', style
    )


def test_where_it_starts():
    widget = make(start={"bits": 5})
    assert widget.setting == {"bits": 5} and widget.answer["position"] == [4]
    assert "Picture at bits 5." in widget._repr_mimebundle_()[0]["text/html"]
    np.testing.assert_array_equal(pixels(widget.answer["png"]), pixels(moved(make(), [4]).answer["png"]))


def moved(widget, position):
    widget.position = position
    return widget


def in_the_browser(widget):
    state = widget.get_state()
    names = ("title", "caption_html", "alt", "sliders", "position", "width", "answer")
    return state["_esm"], {name: state[name] for name in names} | {"answer": as_json(widget.answer)}


def as_json(answer):
    return answer | {"png": list(answer["png"])}


def test_a_kernel_that_does_not_answer(tmp_path):
    esm, state = in_the_browser(make())
    answer = as_json(moved(make(), [4]).answer)
    run_node_tests("kernel.test.js", {"esm": esm, "state": state, "answer": answer}, tmp_path)


def test_a_page_without_jupyter(tmp_path):
    esm, state = in_the_browser(make(update=lambda artists, bits, how: update(artists, bits),
                                     settings={"bits": [1, 2], "how": ["up", "down"]}))  # fmt: skip
    case = {"shows": ["Levels", "down"], "press": ["[type=radio]"], "then": {"position": [1, 0]}, "showsThen": []}
    run_node_tests("plain.test.js", {"esm": esm, "state": state, **case}, tmp_path)


def test_an_error_in_update_is_shown_in_the_figure():
    def fragile(artists, bits):
        if broken:
            raise ArithmeticError(f"no such width: {bits}")
        return update(artists, bits)

    broken = False
    widget = make(update=fragile)
    broken = True
    with pytest.raises(ArithmeticError):
        widget.position = [4]
    assert widget.answer["readouts"] == [["error", "ArithmeticError: no such width: 5"]]
    assert widget.answer["failed"] and widget.answer["position"] == [4]
    broken = False
    widget.position = [3]
    assert widget.answer["readouts"][0] == ["levels", "17"]


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"setup": lambda axes: []}, ValueError, "no artists"),
        ({"setup": lambda axes: None}, TypeError, r"setup\(\) returned None"),
        ({"update": lambda artists, bits: None}, TypeError, r"update\(bits=1\) returned NoneType"),
        ({"update": lambda artists, rank: {}}, TypeError, "bits"),
        ({"settings": {"bits": []}}, ValueError, "no values"),
        ({"start": {"bits": 9}}, ValueError, "its values are 1, 2, 3, 4, 5"),
    ],
)
def test_refused(parts, error, message):
    with pytest.raises(error, match=message):
        make(**parts)
