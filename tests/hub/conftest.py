"""A real hub on this machine, with real accounts: as root on Linux, else these tests are skipped with the reason."""

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import requests
from student import Student

ROOT = Path(__file__).resolve().parents[2]
PROXY = ROOT / "deploy/node_modules/.bin/configurable-http-proxy"
NAMES = [f"peft-student-{number}" for number in range(1, 9)]


AS_ROOT = f"sudo git clone {ROOT} /opt/peft-lessons && cd /opt/peft-lessons && sudo make test PYTHON=/usr/bin/python3"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def why_not() -> str:
    """The reason why this machine cannot play a class server; empty when it can."""
    if not PROXY.exists():
        return "the hub's proxy is missing; to run it: make setup-class"
    if os.geteuid() or not shutil.which("useradd"):
        return f"only root can start servers of other users; to run it: {AS_ROOT}"
    command = [sys.executable, "-c", "import torch"]
    try:
        subprocess.run(command, user=65534, group=65534, extra_groups=[], check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"other users cannot run {sys.executable} ({type(error).__name__}); to run it: {AS_ROOT}"
    return ""


class Hub:
    """JupyterHub with the settings of deploy/, its state in `folder`; `kill` and `start` as often as wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "hub.log"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.config = folder / "config.py"
        self.config.write_text(
            "c = get_config()\n"
            f"load_subconfig({str(ROOT / 'deploy/jupyterhub_config.py')!r})\n"
            f"c.JupyterHub.bind_url = {self.url!r}\n"
            f"c.JupyterHub.hub_port = {free_port()}\n"
            f"c.ConfigurableHTTPProxy.api_url = 'http://127.0.0.1:{free_port()}'\n"
            "c.Spawner.poll_interval = 5\n"  # how often the hub looks whether a server still runs
        )

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", f"--config={self.config}"],
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        give_up = time.monotonic() + 120
        while self.process.poll() is None and time.monotonic() < give_up:
            try:
                if requests.get(f"{self.url}/hub/api", timeout=5).ok:
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.2)
        raise RuntimeError(f"the hub did not start; its log ends with\n{self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """At once, as when the machine runs out of memory."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for process in psutil.process_iter(["cmdline"]):  # those too that a killed hub has left behind
            if re.search(f"{PROXY}|jupyterhub_idle_culler", " ".join(process.info["cmdline"] or [])):
                process.kill()


@pytest.fixture(scope="session")
def accounts():
    """{name: password} of eight accounts with homes of their own, deleted at the end."""
    if reason := why_not():
        pytest.skip(reason)
    homes = Path(tempfile.mkdtemp(prefix="peft-class-"))
    homes.chmod(0o755)
    passwords = {name: secrets.token_urlsafe(12) for name in NAMES}
    delete_accounts()  # of a run that was cut off
    try:
        for name in NAMES:
            command = ["useradd", "--create-home", "--home-dir", str(homes / name), "--shell", "/bin/bash", name]
            subprocess.run(command, check=True, capture_output=True)
            (homes / name).chmod(0o700)
        lines = "".join(f"{name}:{password}\n" for name, password in passwords.items())
        subprocess.run(["chpasswd"], input=lines, text=True, check=True)
        yield passwords
    finally:
        delete_accounts()
        shutil.rmtree(homes, ignore_errors=True)


def delete_accounts() -> None:
    """The accounts of `NAMES`, as far as there are any, and whatever still runs in their name."""
    uids = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_name in NAMES}
    running = [process for process in psutil.process_iter(["uids"]) if process.info["uids"].real in uids]
    for process in running:
        process.kill()
    psutil.wait_procs(running, timeout=20)
    for name in NAMES:
        subprocess.run(["userdel", "--force", name], capture_output=True)


@pytest.fixture(scope="session")
def hub(accounts, tmp_path_factory):
    hub = Hub(tmp_path_factory.mktemp("hub"))
    hub.start()
    yield hub
    hub.end()


@pytest.fixture(scope="session")
def class_(hub, accounts):
    """All students, by name, nobody logged in yet."""
    return {name: Student(hub.url, name, password) for name, password in accounts.items()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    hub = item.funcargs.get("hub") if hasattr(item, "funcargs") else None
    if report.failed and hub is not None:
        report.sections.append(("the hub's log", hub.log.read_text(errors="replace")[-6000:]))
    return report
