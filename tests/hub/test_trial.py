"""`make class`: the same hub for a trial, without root and accounts; all stays in one folder and ends with it."""

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import requests
from conftest import PROXY, ROOT, free_port
from student import Student

pytestmark = pytest.mark.hub


@pytest.mark.skipif(not PROXY.exists(), reason="the hub's proxy is missing; to run it: make setup-class")
def test_a_trial_from_start_to_end(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    settings = tmp_path / "trial.py"
    settings.write_text(
        f"c = get_config()\nload_subconfig({str(ROOT / 'deploy/trial_config.py')!r})\n"
        f"c.JupyterHub.bind_url = {url!r}\nc.JupyterHub.hub_port = {free_port()}\n"
        f"c.ConfigurableHTTPProxy.api_url = 'http://127.0.0.1:{free_port()}'\n"
        + ("c.Spawner.args = ['--allow-root']\n" if hasattr(os, "geteuid") and os.geteuid() == 0 else "")
    )
    environment = os.environ | {"PEFT_LESSONS_CLASS": str(tmp_path / "class")}
    log = tmp_path / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "jupyterhub", f"--config={settings}"]
        hub = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=tmp_path)
    try:
        give_up = time.monotonic() + 120
        while not (said := re.search(r"any name, password (\S+)", log.read_text())) or not answers(f"{url}/hub/api"):
            assert hub.poll() is None and time.monotonic() < give_up, log.read_text()[-3000:]
            time.sleep(0.3)
        ada = Student(url, "ada", said[1])
        ada.log_in()
        ada.start()
        assert ada.get("contents/00_start_here.ipynb").ok, "the lessons are there"
        kernel = ada.kernel()
        assert kernel.printed("import pathlib; print(pathlib.Path.home())") == str(tmp_path / "class/home/ada")
        assert (tmp_path / "class/home/ada/peft-lessons/00_start_here.ipynb").is_file()
    finally:
        children = psutil.Process(hub.pid).children(recursive=True)
        hub.send_signal(signal.SIGINT)
        try:
            hub.wait(60)
        except subprocess.TimeoutExpired:
            hub.kill()
        _, left = psutil.wait_procs(children, timeout=20)
        for process in left:
            process.kill()
    assert left == [], "something still runs"


def answers(address):
    try:
        return requests.get(address, timeout=5).ok
    except requests.ConnectionError:
        return False
