"""nbval on stored notebooks, in a home of their own: run again, or compared with a run that has taken place."""

import os
import subprocess
import sys
from pathlib import Path

from tools.lessons import notebooks

SANITIZE = Path(__file__).resolve().parents[1] / "nbval_sanitize.cfg"


def replay(notebook: Path, home: Path, run: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """nbval on one stored notebook; exit status 0 when every cell ran and printed what is stored.

    With `run`, the same notebook as it was executed elsewhere, nothing is executed again.
    """
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZE}"]
    command += ["-q", "--color=no", "-p", "no:cacheprovider", f"--rootdir={notebook.parent}", "-c", os.devnull]
    environment = notebooks.kernel_environment(home, **variables)
    if run is not None:
        command += ["-p", "recorded"]
        environment |= {"PYTHONPATH": str(Path(__file__).parent), "PEFT_LESSONS_RUN": str(run)}
    return subprocess.run([*command, str(notebook)], env=environment, cwd=home, capture_output=True, text=True)
