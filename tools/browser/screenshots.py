"""Photograph lessons in a real JupyterLab, light and dark, a screen at a time.

python -m tools.browser.screenshots 01 03 --out pictures            run all cells first
python -m tools.browser.screenshots 01 --out pictures --as-stored   as they look in a fresh clone, before anything runs
"""

import argparse
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tools.browser import lab
from tools.lessons.notebooks import sources


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="numbers or names of lessons; all when none is given")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--as-stored", action="store_true", help="run nothing: show what a fresh clone shows")
    parser.add_argument("--width", type=int, default=1200, help="width of the window in CSS pixels")
    arguments = parser.parse_args()
    failed = 0
    with (
        tempfile.TemporaryDirectory(prefix="peft-lessons-") as home,
        lab.Server(Path(home)) as server,
        sync_playwright() as playwright,
        lab.chromium(playwright) as browser,
    ):
        for path in sources(arguments.names):
            context = lab.new_context(browser, width=arguments.width)
            lesson = lab.Lesson(server, context, path.stem)
            if not arguments.as_stored:
                lesson.run_all()
            for theme in ("light", "dark"):
                lesson.theme(dark=theme == "dark")
                for file in lesson.pieces(arguments.out, theme):
                    print(file)
            for problem in [*lesson.errors(), *lesson.page_errors, *lesson.blocked]:
                print(f"{path.stem}: {problem}")
                failed = 1
            context.close()
    return failed


if __name__ == "__main__":
    sys.exit(main())
