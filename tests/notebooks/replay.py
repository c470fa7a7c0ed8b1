"""Runs stored notebooks again and compares their outputs, as `pytest --nbval` does, in a home of their own."""

import os
import subprocess
import sys
from pathlib import Path

import notebooks

SANITIZE = Path(__file__).resolve().parents[1] / "nbval_sanitize.cfg"


def replay(notebook: Path, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """nbval on one stored notebook; exit status 0 when every cell ran and printed what is stored."""
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZE}"]
    command += ["-q", "--color=no", "-p", "no:cacheprovider", f"--rootdir={notebook.parent}", "-c", os.devnull]
    environment = notebooks.kernel_environment(home, **variables)
    return subprocess.run([*command, str(notebook)], env=environment, cwd=home, capture_output=True, text=True)
