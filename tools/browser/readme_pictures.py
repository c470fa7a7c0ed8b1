"""The pictures of README.md and the site, from the real thing: `python -m tools.browser.readme_pictures`.

A lesson in JupyterLab after it has run, a slide of it, and a page of the site, which `make site` has built before. Run
it after a change that shows in them, look at the pictures, and commit them.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
import present
from playwright.sync_api import Browser, Page, sync_playwright

from tools.browser import lab

DOCS = lab.ROOT / "docs"
SITE = lab.ROOT / "build/site"
LESSON = "07_qlora"
SLIDER = ".jp-OutputArea figure.peft-figure input[type=range]"
INDEX = "data-windowed-list-index"
MOST_BYTES = 250_000


def shoot(page: Page, name: str, **options: object) -> None:
    path = DOCS / name
    page.screenshot(path=path, **options)  # type: ignore[arg-type]
    size = path.stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"{path} has {size:,} bytes, more than {MOST_BYTES:,}: choose a smaller window")
    print(f"{path.relative_to(lab.ROOT)}: {size:,} bytes")


def lesson_and_slide(browser: Browser) -> None:
    with tempfile.TemporaryDirectory(prefix="peft-lessons-") as folder:
        copies, home = Path(folder) / "copies", Path(folder) / "home"
        copies.mkdir()
        home.mkdir()
        as_a_talk = present.presentable(nbformat.read(lab.NOTEBOOKS / f"{LESSON}.ipynb", as_version=4))
        nbformat.write(as_a_talk, copies / f"{LESSON}.ipynb")
        pictures_of(browser, copies, home)


def pictures_of(browser: Browser, copies: Path, home: Path) -> None:
    with lab.Server(home, copies) as server:
        context = lab.new_context(browser, width=1100, height=720)
        lesson = lab.Lesson(server, context, LESSON)
        lesson.run_all()
        slider = lesson.page.locator(SLIDER).first
        figure = slider.locator("xpath=ancestor::figure")
        for number, key in ((0, "ArrowLeft"), (1, "ArrowRight"), (2, "ArrowLeft"), (3, "ArrowLeft")):
            figure.locator("input[type=range]").nth(number).press(key)  # QLoRA of a model of 8 billion parameters
        figure.evaluate("figure => figure.scrollIntoView({ block: 'end' })")
        lesson.settle()
        shoot(lesson.page, "lesson.png")
        around = figure.locator(f"xpath=ancestor::*[@{INDEX}]")
        cell = around.evaluate("cell => Number(cell.dataset.windowedListIndex)")
        lesson.page.evaluate("n => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = n; }", cell)
        lesson.command("deck:start")
        lesson.page.wait_for_timeout(1000)
        shoot(lesson.page, "slide.png")
        context.close()


def site(browser: Browser) -> None:
    page = lab.new_context(browser, width=1100, height=720).new_page()
    page.goto((SITE / "lessons/03_lora_from_scratch.html").as_uri(), wait_until="load")
    page.wait_for_selector("mjx-container svg")
    shoot(page, "site.png")


def main() -> int:
    if not (SITE / "index.html").exists():
        sys.exit("there is no site yet: run make site")
    with sync_playwright() as playwright, lab.chromium(playwright) as browser:
        site(browser)
        lesson_and_slide(browser)
    return 0


if __name__ == "__main__":
    sys.exit(main())
