"""One JupyterLab for all browser tests, one page for each lesson, and what is left behind when a test fails.

Pictures of failures go to the folder PEFT_LESSONS_SCREENSHOTS, else to pytest's own temporary folder, whose name a
failing test's report gives. With that folder named, every lesson is photographed, too, light and dark.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / name) for name in ("tests", "tests/notebooks")]

from playwright.sync_api import sync_playwright  # noqa: E402

from peft_lessons.lessons.catalogue import lessons  # noqa: E402
from tools.browser import lab  # noqa: E402
from tools.site import build_playground  # noqa: E402


class EachLessonOnOneWorker(LoadScopeScheduling):
    """The tests of a lesson, whose name stands in brackets behind theirs, share its page; those of another file, it."""

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        return test.partition("[")[2] or test if file.endswith("test_lessons_in_jupyterlab.py") else file


def pytest_xdist_make_scheduler(config, log):
    return EachLessonOnOneWorker(config, log)


def pytest_collection_modifyitems(items):
    """The longest lessons first, so that no worker sits idle while another runs one of minutes."""
    minutes = {Path(lesson.notebook).stem: lesson.running_minutes for lesson in lessons()}
    items.sort(key=lambda item: -minutes.get(item.name.partition("[")[2].removesuffix("]"), 0))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    chosen = os.environ.get("PEFT_LESSONS_SCREENSHOTS")
    folder = Path(chosen) if chosen else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with lab.Server(tmp_path_factory.mktemp("lab") / "home") as server:
        yield server


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright, lab.chromium(playwright) as browser:
        yield browser


@pytest.fixture(scope="session")
def training_pages(tmp_path_factory) -> Path:
    """A folder with the pages that train."""
    folder = tmp_path_factory.mktemp("training")
    build_playground.build(folder)
    (folder / "index.html").write_text("<!doctype html>")  # the site's, to which the pages lead back
    return folder


@pytest.fixture(scope="module")
def lesson(request, server, browser, tmp_path_factory):
    """The lesson whose name is the parameter, open and with all cells run; `run` is the notebook as it was then."""
    context = lab.new_context(browser)
    opened = lab.Lesson(server, context, request.param)
    opened.folded_at_first = opened.folded()
    opened.run_all()
    opened.run = shutil.copy(opened.save(), tmp_path_factory.mktemp("run"))
    yield opened
    opened.end_kernel()
    context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    arguments = getattr(item, "funcargs", {})
    opened = next((one for one in arguments.values() if isinstance(one, lab.Lesson)), None)
    if report.failed and report.when != "teardown" and opened is not None:  # afterwards the page may be gone
        picture = arguments["pictures"] / f"FAILED-{item.name}.png"
        opened.page.screenshot(path=picture)
        report.sections += [
            ("picture", str(picture)),
            ("browser's console", "\n".join(opened.console[-50:])),
            ("JupyterLab's log", opened.server.log.read_text(encoding="utf-8", errors="replace")[-3000:]),
        ]
    return report
