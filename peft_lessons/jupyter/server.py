"""The one place that starts JupyterLab: for students, for talks, for the class server and for the browser tests.

Whatever it starts, terminals and kernels alike, finds this Python's commands first and the student's lessons in
PEFT_LESSONS_WORK, so that `peft-lessons reset 03` does the same everywhere.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from peft_lessons import course

HERE = Path(__file__).parent
CONFIG = HERE / "config.py"
SETTINGS = HERE / "settings"  # the course's defaults for JupyterLab's settings; a student's own come before them
SECONDS_TO_END = 30  # for a server that is asked to end; its kernels end with it
LAST_LINES = 8  # of the log, when JupyterLab does not start


def environment(work: Path, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return a JupyterLab's environment for the lessons in `work`: `variables` (default: this process's), and ours."""

    def before(folder: Path, name: str) -> str:
        return os.pathsep.join([str(folder), *filter(None, [variables.get(name)])])

    return {
        **variables,
        "PATH": before(course.scripts(), "PATH"),
        "JUPYTER_CONFIG_PATH": before(SETTINGS, "JUPYTER_CONFIG_PATH"),
        "PEFT_LESSONS_WORK": str(work),
        # The kernel called python3 is this Python's, also where the user has one of that name.
        "JUPYTER_PREFER_ENV_PATH": variables.get("JUPYTER_PREFER_ENV_PATH", "1"),
    }


def command(folder: Path, options: Sequence[str] = ()) -> list[str]:
    """Return the command line of a JupyterLab that shows `folder`; later `options` are JupyterLab's own."""
    return [sys.executable, "-m", "jupyterlab", f"--config={CONFIG}", f"--ServerApp.root_dir={folder}", *options]


def run(
    folder: Path, page: str, options: Sequence[str], variables: Mapping[str, str], announce: Callable[[str], None]
) -> int:
    """Run JupyterLab on `folder` until it ends or Ctrl+C ends it; returns its exit status, 0 after Ctrl+C.

    Args:
        folder: what its file browser shows.
        page: the path of the page that it opens, such as "lab/tree/00_start_here.ipynb".
        options: more options for JupyterLab, such as --no-browser.
        variables: its environment, as `environment` makes it.
        announce: called once, with the address of the page, when JupyterLab answers.

    What JupyterLab writes goes to a file that is named on failure and deleted otherwise.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0 and "--allow-root" not in options:
        print("As root, in a container for instance, JupyterLab starts only with the option --allow-root.")
        return 2
    token = secrets.token_hex(24)
    handle, name = tempfile.mkstemp(prefix="peft-lessons-jupyterlab-", suffix=".log")
    log = Path(name)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore Ctrl+C
    asked_to_end = False
    with os.fdopen(handle, "wb") as output:
        server = subprocess.Popen(
            # Ctrl+C ends it without a question; the token is no argument, since every user may read those
            command(folder, [f"--LabApp.default_url=/{page}", "--ServerApp.answer_yes=True", *options]),
            env={**variables, "JUPYTER_TOKEN": token},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            address = _address(server, token, variables.get("JUPYTER_RUNTIME_DIR"))
            if address is not None:
                announce(f"{address}{page}?token={token}")
            server.wait()
        except KeyboardInterrupt:
            asked_to_end = True
            _end(server)
        except BaseException:
            _end(server)
            raise
    if asked_to_end or server.returncode == 0:
        log.unlink()
        return 0
    print(f"JupyterLab {'ended' if address else 'did not start'}; all that it wrote is in {log}, at last:")
    print(*log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:], sep="\n")
    return server.returncode or 1


def _address(server: subprocess.Popen[bytes], token: str, runtime: str | None) -> str | None:
    """Where the server with this token answers, such as http://127.0.0.1:8888/; None when it ends before."""
    from jupyter_server.serverapp import list_running_servers

    while server.poll() is None:
        for found in list_running_servers(runtime):
            if found.get("token") == token and _answers(f"{found['url']}api/status?token={token}"):
                return str(found["url"])
        time.sleep(0.1)
    return None


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()  # it ends its kernels first
    try:
        server.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        server.kill()  # kernels end by themselves when their server is gone
        server.wait()
