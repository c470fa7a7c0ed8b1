"""What the hub starts for a student, as that student: new lessons are copied into the home, then JupyterLab runs.

Nothing that the student changed is overwritten (peft_lessons/classroom/progress/working_copies.py).
"""

import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

WORK = Path.home() / "peft-lessons"


def main() -> None:
    from peft_lessons.classroom.progress.working_copies import copy_lessons
    from peft_lessons.jupyter import server

    os.umask(0o077)  # what a student writes is nobody else's, whichever spawner started this
    print(copy_lessons(WORK), flush=True)
    # Kernels speak through files that are the student's alone: any user of this machine could listen to TCP ports. The
    # name of such a file has at most 107 characters, hence not in the home, whose name may be long.
    own = {"JUPYTER_RUNTIME_DIR": tempfile.mkdtemp(prefix="jupyter-")}
    command = [
        *(sys.executable, "-m", "jupyterhub.singleuser"),
        f"--config={server.CONFIG}",
        # The hub says where to listen; in a container that is not the loopback address of the course's own settings.
        f"--ServerApp.ip={urlsplit(os.environ['JUPYTERHUB_SERVICE_URL']).hostname or '0.0.0.0'}",
        "--KernelManager.transport=ipc",
        *sys.argv[1:],
    ]
    os.execve(sys.executable, command, server.environment(WORK) | own)  # in this process: the hub watches its number


if __name__ == "__main__":
    main()
