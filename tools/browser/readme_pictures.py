"""The pictures of README.md, from the real thing: `python -m tools.browser.readme_pictures`.

The adapter's switch of lesson 00 as a short moving picture, and the planner of lesson 07 in JupyterLab. Run it after a
change that shows in them, look at the pictures, and commit them: a test fails while a picture is older than the text of
the lesson that it shows.
"""

import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, sync_playwright

from tools.browser import lab

DOCS = lab.ROOT / "docs"
SHOWN = {
    "switch.gif": "00_start_here",
    "lesson.png": "07_qlora",
}
TAKEN = DOCS / "pictures.json"  # of which text of its lesson each picture was taken
MOST_BYTES = 250_000
FRAME_MS = 2200


def text_of(lesson: str) -> str:
    """Return the digest of a lesson's text."""
    return hashlib.sha256((lab.NOTEBOOKS / f"{lesson}.md").read_bytes()).hexdigest()[:16]


def keep(name: str, content: bytes) -> None:
    """Write a picture, and of which text it was taken."""
    if len(content) > MOST_BYTES:
        sys.exit(f"{name} has {len(content):,} bytes, more than {MOST_BYTES:,}: choose a smaller window")
    (DOCS / name).write_bytes(content)
    taken = json.loads(TAKEN.read_text(encoding="utf-8")) if TAKEN.exists() else {}
    taken[name] = text_of(SHOWN[name])
    TAKEN.write_text(json.dumps(taken, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"docs/{name}: {len(content):,} bytes")


def switch(browser: Browser) -> None:
    """Turn the adapter of lesson 00 off and on, for two questions."""
    with tempfile.TemporaryDirectory(prefix="peft-lessons-") as home, lab.Server(Path(home)) as server:
        context = lab.new_context(browser, width=760, height=700)
        lesson = lab.Lesson(server, context, SHOWN["switch.gif"])
        lesson.run_all()
        field = lesson.page.locator(".peft-compare").first
        frames = []
        for question in (None, "Define the word lawyer."):
            if question:
                field.get_by_role("button", name=question).click()
                field.locator("xpath=self::*[not(@aria-busy='true')]").wait_for()
                lesson.page.wait_for_timeout(20_000)
            for _ in range(2):
                frames.append(frame(field))
                field.get_by_role("switch").click()
                lesson.page.wait_for_timeout(500)
        context.close()
    size = max(one.width for one in frames), max(one.height for one in frames)
    grown = [Image.new("RGB", size, "white") for _ in frames]
    for canvas, one in zip(grown, frames, strict=True):
        canvas.paste(one, (0, 0))
    moving = io.BytesIO()
    grown[0].save(moving, "GIF", save_all=True, append_images=grown[1:], duration=FRAME_MS, loop=0, optimize=True)
    keep("switch.gif", moving.getvalue())


def frame(part: Locator) -> Image.Image:
    return Image.open(io.BytesIO(part.screenshot())).convert("RGB")


def planner(browser: Browser) -> None:
    """Show the planner of lesson 07."""
    with tempfile.TemporaryDirectory(prefix="peft-lessons-") as home, lab.Server(Path(home)) as server:
        context = lab.new_context(browser, width=1000, height=720)
        lesson = lab.Lesson(server, context, SHOWN["lesson.png"])
        lesson.run_all()
        figure = lesson.page.locator(".jp-OutputArea figure.peft-figure").first
        figure.evaluate("figure => figure.scrollIntoView({ block: 'center' })")
        lesson.settle()
        keep("lesson.png", lesson.page.screenshot())
        context.close()


def main() -> int:
    with sync_playwright() as playwright, lab.chromium(playwright) as browser:
        switch(browser)
        planner(browser)
    return 0


if __name__ == "__main__":
    sys.exit(main())
