"""Where the course's own files lie: beside the package in a checkout, inside it where a wheel was installed.

`program` gives the command `peft-lessons …` in the form that runs where the reader stands.
"""

import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None
FILES = CHECKOUT or PACKAGE / "course"  # pyproject.toml says what a wheel holds there
NOTEBOOKS = FILES / "notebooks"
PINS = FILES / "requirements" / "pins.txt"
WEIGHTS = FILES / "requirements" / "weights.txt"


def scripts() -> Path:
    """Return the folder of this Python's commands, `peft-lessons` among them."""
    return Path(sysconfig.get_path("scripts"))


def program(arguments: str = "") -> str:
    """Return the command line `peft-lessons ARGUMENTS` for this very Python, as one can type it here.

    That is `peft-lessons …` where the search path leads to this Python's own, as in JupyterLab's terminals and in cells
    of a lesson; elsewhere it names this Python with its whole path.
    """
    found = shutil.which("peft-lessons")
    own = found and Path(found).parent.resolve() == scripts().resolve()
    start = "peft-lessons" if own else f"{shlex.quote(sys.executable)} -m peft_lessons"
    return f"{start} {arguments}".strip()


def pip(arguments: str) -> str:
    """Return the command line `pip ARGUMENTS` for this very Python; it works in any folder."""
    return f"{shlex.quote(sys.executable)} -m pip {arguments}"


def reinstall() -> str:
    """Return the command line that installs the course and what it needs anew, at the versions it was checked with."""
    pins = f"install --constraint {shlex.quote(str(PINS))}"
    return pip(f"{pins} {f'--editable {shlex.quote(str(CHECKOUT))}' if CHECKOUT else 'peft-lessons'}")


def point_here() -> str:
    """Return the command that makes this Python import the course from where it lies: a folder was moved or copied."""
    if CHECKOUT and Path(sys.prefix) == CHECKOUT / ".venv":
        return f"make -C {shlex.quote(str(CHECKOUT))} setup"  # needs no network
    return reinstall()


def restore(path: str) -> str:
    """Return what brings back `path`, a file or folder of the course that was damaged, as the course has it."""
    if CHECKOUT is None:
        return pip("install --force-reinstall --no-deps peft-lessons")
    return f"git -C {shlex.quote(str(CHECKOUT))} checkout -- {path}   (or download the course again)"
