"""The square for letters in a real browser: what mouse and finger draw is in the picture that the page sends."""

import json
from itertools import pairwise

import pytest
from test_site import well_made

from peft_lessons.classroom.widgets.hand import Hand, possible
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.tasks import TRAINED_LETTERS, pictures_in
from tools.browser import lab

pytestmark = pytest.mark.browser

# A page with the widget and a kernel that keeps what it is sent.
PAGE = """<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>By hand</title><style>
body { background: #fff; margin: 8px } html[data-theme=dark] body { background: #111417 } %s</style>
<main></main><script type="module">%s
const state = %s, listeners = [];
const model = window.model = {
  get: (name) => state[name],
  set(name, value) {
    state[name] = value;
    for (const [event, react] of [...listeners]) if (event === `change:${name}`) react();
  },
  on: (...listener) => listeners.push(listener),
  off() {},
  save_changes: () => setTimeout(() => model.set("kept", { number: state.drawn.number, notice: "" })),
};
render({ model, el: document.querySelector("main") });
</script></html>"""


@pytest.fixture(params=["mouse", "finger"])
def drawing(request, browser, tmp_path, monkeypatch):
    """A page with the square, how one draws on it, and what went wrong."""
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))
    hand = Hand(TRAINED_LETTERS)
    state = {name: getattr(hand, name) for name in ("asked", "drawn", "kept")}
    css, script = source("theme.css", "parts.css", "hand.css"), source("parts.js", "ink.js", "hand.js")
    (tmp_path / "page.html").write_text(PAGE % (css, script, json.dumps(state)), encoding="utf-8")
    finger = request.param == "finger"
    context = lab.new_context(browser, *((390, 844) if finger else (1280, 720)), has_touch=finger)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    yield page, touched if finger else moved, wrong
    context.close()


def moved(page, points):
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def touched(page, points):
    cdp = page.context.new_cdp_session(page)

    def tell(kind, *at):
        cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in at]})

    tell("touchStart", points[0])
    for (ax, ay), (bx, by) in pairwise(points):
        for part in range(1, 9):
            tell("touchMove", (ax + (bx - ax) * part / 8, ay + (by - ay) * part / 8))
    tell("touchEnd")


def stroke(page, draw, *points):
    """Draw through points that are given in pixels of the picture."""
    box = page.locator(".peft-square svg").bounding_box()
    draw(page, [(box["x"] + x / 32 * box["width"], box["y"] + y / 32 * box["height"]) for x, y in points])


def test_a_letter_is_drawn(drawing, pictures, request):
    page, draw, wrong = drawing
    page.get_by_label("capital H").check(force=True)
    page.locator(".peft-square").scroll_into_view_if_needed()
    scrolled = page.evaluate("scrollY")
    stroke(page, draw, (4, 3), (4, 12), (4, 22.9))
    stroke(page, draw, (4, 22), (14, 22))
    assert page.evaluate("scrollY") == scrolled, "a finger draws there, it does not scroll"
    page.locator(".peft-square").press("Enter")
    stroke(page, draw, (4, 3), (5, 23), (14, 23))
    letters = page.evaluate("model.get('drawn').letters")
    assert set(letters) == {"H", "M"} and all(map(possible, letters.values()))
    (l_shape,) = pictures_in([letters["H"]["picture"]]) / 2 + 0.5
    rows, columns = l_shape.amax(1), l_shape.amax(0)
    # A pen of 2¼ pixels, from row 3 to row 22 or 23 and over 10 columns, which then lie around the middle.
    ink = {"rows": rows, "columns": columns}
    assert {name: (one > 0.5).nonzero()[[0, -1]].flatten().tolist() for name, one in ink.items()} == {
        "rows": [2, 23],
        "columns": [10, 21],
    }
    assert l_shape[5:20].sum(1).sub(2.25).abs().max() < 0.2, "an upright of one stem"
    assert l_shape[22, 13:20].min() > 0.9 and l_shape[5:20, 14:].max() == 0
    page.locator(".peft-square").press("Control+z")
    assert set(page.evaluate("model.get('drawn').letters")) == {"H"}
    well_made(page, pictures / f"by-hand-{request.node.callspec.id}", "main")
    assert wrong == []
