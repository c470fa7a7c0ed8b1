"""A real JupyterLab on a copy of the lessons, seen through Chromium: for the browser tests and for screenshots.

`Server` is a JupyterLab of this Python whose settings, runtime files and progress all live in one folder of its own.
`Lesson` is one notebook open in it. Chromium is at PEFT_LESSONS_CHROMIUM, else at one of the places that Linux has for
it, else the one that `playwright install chromium` fetched.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from playwright.sync_api import (
    Browser,
    BrowserContext,
    BrowserType,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Playwright,
    Route,
)

from peft_lessons.jupyter import server

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# With a graphics processor for WebGPU that any machine has, since Chromium brings it along: the CPU plays it.
SOFTWARE_GRAPHICS = [
    *(argument for argument in CHROMIUM_ARGUMENTS if argument != "--disable-gpu"),
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
]
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}
# Server extensions that came with tools of ours and that a student's installation does not have.
OURS_ALONE = ["jupyterlab_jupytext", "notebook"] + [
    f"nbgrader.server_extensions.{name}"
    for name in ("assignment_list", "course_list", "formgrader", "validate_assignment")
]
POLL = 100  # ms; without it Playwright asks at every frame, which keeps half a processor from the kernel
SCROLLER = ".jp-NotebookPanel .jp-WindowedPanel-outer"


class Server:
    """JupyterLab on a copy of `notebooks` (a folder), under `home` (an empty folder); a context manager.

    Leaving the context ends the server and its kernels. `log` holds what they wrote.
    """

    def __init__(self, home: Path, notebooks: Path = NOTEBOOKS, **variables: str) -> None:
        self.home, self.folder, self.log = home, home / "notebooks", home / "server.log"
        self.token = secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        shutil.copytree(notebooks, self.folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        settings = home / "settings"
        for plugin, values in SETTINGS.items():
            file = settings / f"{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        server_settings = home / "config/jupyter_server_config.json"
        server_settings.parent.mkdir()
        server_settings.write_text(json.dumps({"ServerApp": {"jpserver_extensions": dict.fromkeys(OURS_ALONE, False)}}))
        page = home / "config/labconfig/page_config.json"
        page.parent.mkdir()
        page.write_text(json.dumps({"disabledExtensions": {"@jupyter/nbgrader": True}}))
        self.environment = server.environment(self.folder) | {
            "HF_HUB_OFFLINE": "1",
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_PREFER_ENV_PATH": "no",  # else settings that came with packages win over those above
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTER_TOKEN": self.token,
            "JUPYTERLAB_SETTINGS_DIR": str(settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "OMP_NUM_THREADS": "1",  # tests run a lesson on each processor
            "OMP_WAIT_POLICY": "passive",
            "GOMP_SPINCOUNT": "0",
            "PEFT_LESSONS_HOME": str(home / "progress"),
            **variables,
        }

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                server.command(
                    self.folder,
                    [
                        *("--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True"),
                        *(f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0"),
                    ],
                ),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait_until_it_answers(self, seconds: float = 120) -> None:
        give_up = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < give_up:
            try:
                with urllib.request.urlopen(f"{self.url}/api/status?token={self.token}", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"JupyterLab did not start; its log ends with\n{self.log.read_text()[-3000:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Lesson:
    """The notebook `name` (such as 01_overview_of_peft), opened from `server` in a page of its own.

    `blocked` lists the requests that wanted to leave the machine (none may; each is refused), `page_errors` the
    exceptions that no script caught, those of JupyterLab's own scripts alone left out, and `console` everything written
    to the browser's console.
    """

    def __init__(self, server: Server, context: BrowserContext, name: str) -> None:
        self.server, self.name = server, name
        self.blocked: list[str] = []
        self.page_errors: list[str] = []
        self.console: list[str] = []
        self.page: Page = context.new_page()
        self.page.route("**/*", self._stay_here)
        self.page.on("pageerror", self._raised)
        self.page.on("console", self._note)
        self.load()

    def _stay_here(self, route: Route) -> None:
        url = route.request.url
        if url.startswith((f"{self.server.url}/", "data:", "blob:")):
            route.continue_()
        else:
            self.blocked.append(url)
            route.abort()

    def _raised(self, error: Error) -> None:
        """JupyterLab's splash screen, for one, is taken away twice on a fast machine; no lesson can mend that."""
        if not only_jupyterlabs(error.stack or ""):
            self.page_errors.append(error.stack or str(error))

    def _note(self, message: ConsoleMessage) -> None:
        self.console.append(f"{message.type}: {message.text}")

    def load(self) -> None:
        """Open the notebook, or open it anew, and wait until its kernel is idle."""
        self.page.goto(f"{self.server.url}/doc/tree/{self.name}.ipynb?token={self.server.token}")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=120_000)
        self.page.wait_for_function(
            """() => {
                const panel = window.jupyterapp?.shell.currentWidget;
                return panel?.sessionContext?.session?.kernel?.status === "idle";
            }""",
            polling=POLL,
            timeout=120_000,
        )

    def save(self) -> Path:
        """Save the notebook, outputs included; returns its file."""
        self.command("docmanager:save")
        return self.server.folder / f"{self.name}.ipynb"

    def write_into(self, number: int, source: str) -> None:
        """Put other code into the cell with this number, counting all cells from 0."""
        self.page.evaluate(
            """([number, source]) =>
                window.jupyterapp.shell.currentWidget.content.widgets[number].model.sharedModel.setSource(source)""",
            [number, source],
        )

    def end_kernel(self) -> None:
        """End the server's kernels, this lesson's, which frees its memory. Works in whatever mode the page is."""
        self.page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")

    def command(self, name: str, **arguments: object) -> None:
        """Run one of JupyterLab's commands and wait until it says that it is done."""
        self.page.evaluate(
            "([name, arguments_]) => window.jupyterapp.commands.execute(name, arguments_).then(() => null)",
            [name, arguments],
        )

    def run_all(self, minutes: float = 15) -> None:
        """Run every cell and wait until the last is done and what it drew has settled."""
        self.page.evaluate(
            """() => {
                window.ranAll = false;
                window.jupyterapp.commands.execute("notebook:run-all-cells").finally(() => { window.ranAll = true; });
            }"""
        )
        self.page.wait_for_function("() => window.ranAll", polling=POLL, timeout=minutes * 60_000)
        self.settle()

    def run_cell(self, number: int, minutes: float = 5) -> None:
        """Run the cell with this number, counting all cells from 0, and wait until it is done."""
        self.page.evaluate(
            """number => {
                window.jupyterapp.shell.currentWidget.content.activeCellIndex = number;
                window.ran = false;
                window.jupyterapp.commands.execute("notebook:run-cell").finally(() => { window.ran = true; });
            }""",
            number,
        )
        self.page.wait_for_function("() => window.ran", polling=POLL, timeout=minutes * 60_000)
        self.settle()

    def counts(self) -> list[int | None]:
        """Return the number in front of each code cell, None where it has not run."""
        return self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget.content.widgets
                .filter(cell => cell.model.type === "code").map(cell => cell.model.executionCount)"""
        )

    def active_cell(self) -> int:
        """Return the number of the cell that JupyterLab's keys act on."""
        return self.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.activeCellIndex")

    def folded(self) -> list[int]:
        """Return the numbers of the cells whose outputs are folded away."""
        return self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap((cell, number) =>
                cell.outputHidden || cell.model.getMetadata("jupyter")?.outputs_hidden ? [number] : [])"""
        )

    def cell(self, number: int) -> Locator:
        """Return the cell with this number, counting all cells from 0."""
        return self.page.locator(f".jp-NotebookPanel .jp-Cell[data-windowed-list-index='{number}']")

    def settle(self) -> None:
        """Wait until the pictures are loaded and the notebook's height has stayed the same for half a second."""
        self.page.wait_for_function(
            """selector => {
                const scroller = document.querySelector(selector);
                const waiting = [...scroller.querySelectorAll("img")].some(image => !image.complete);
                const now = performance.now();
                if (waiting || window.settledHeight !== scroller.scrollHeight) {
                    window.settledHeight = scroller.scrollHeight;
                    window.settledAt = now;
                }
                return now - window.settledAt > 500;
            }""",
            arg=SCROLLER,
            polling=POLL,
            timeout=60_000,
        )

    def theme(self, dark: bool) -> None:
        self.command("apputils:change-theme", theme="JupyterLab Dark" if dark else "JupyterLab Light")
        self.page.wait_for_selector(f'body[data-jp-theme-light="{"false" if dark else "true"}"]', state="attached")
        self.settle()

    def errors(self) -> list[str]:
        """Return the text of every error among the outputs, and of every widget that could not be shown."""
        marks = '[data-mime-type="application/vnd.jupyter.error"]', ".jupyter-widgets-error"
        return self.page.locator(", ".join(f".jp-NotebookPanel {mark}" for mark in marks)).all_inner_texts()

    def pieces(self, folder: Path, label: str) -> list[Path]:
        """Photograph the whole lesson, a screen at a time, into `folder`: NAME-LABEL-00.png, -01.png, …"""
        folder.mkdir(parents=True, exist_ok=True)
        self.settle()
        scroller = self.page.locator(SCROLLER)
        seen, whole = scroller.evaluate(
            """s => {
                const end = [...s.querySelectorAll(".jp-Cell")].at(-1).getBoundingClientRect().bottom;
                return [s.clientHeight, Math.ceil(end - s.getBoundingClientRect().top + s.scrollTop)];
            }"""
        )
        files = []
        for number in range(-(-whole // seen)):
            scroller.evaluate("(s, top) => { s.scrollTop = top; }", number * seen)
            self.page.wait_for_timeout(100)
            files.append(folder / f"{self.name}-{label}-{number:02d}.png")
            scroller.screenshot(path=files[-1])
        scroller.evaluate("s => { s.scrollTop = 0; }")
        return files


def only_jupyterlabs(stack: str) -> bool:
    """Whether an error's stack passes through JupyterLab's own scripts and nothing else.

    Widgets come from blob: addresses, extensions from /lab/extensions/, and what tests evaluate from no address.
    """
    places = [line for line in stack.splitlines() if re.match(r"\s+at ", line)]
    return bool(places) and all("/static/lab/" in place for place in places)


def launch(kind: BrowserType, arguments: list[str]) -> Browser:
    """Start the Chromium of this machine, headless."""
    known = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
    there = os.environ.get("PEFT_LESSONS_CHROMIUM") or next((path for path in known if Path(path).exists()), None)
    return kind.launch(executable_path=there, args=arguments)


@contextmanager
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """Yield a headless Chromium that starts no traffic of its own."""
    browser = launch(playwright.chromium, CHROMIUM_ARGUMENTS)
    try:
        yield browser
    finally:
        browser.close()


def new_context(browser: Browser, width: int = 1200, height: int = 1000, **options: Any) -> BrowserContext:
    """Open a fresh browser profile with a window of `width` × `height` CSS pixels; `options` are Playwright's."""
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
    context.set_default_timeout(30_000)
    return context
