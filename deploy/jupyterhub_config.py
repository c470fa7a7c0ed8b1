"""A class on one Linux machine: `jupyterhub --config=deploy/jupyterhub_config.py`, as root. docs/class.md says how.

Each student is a Unix user of the machine. The course, its Python with torch, and the model's weights lie in one place
that students can read and not write; their work and their progress lie in their own home. Where systemd runs, it holds
every student to the limits below; elsewhere the limit on memory is one for each process.
"""

import resource
import sys
from pathlib import Path

from jupyterhub.spawner import LocalProcessSpawner

COURSE = Path(__file__).resolve().parent.parent
PYTHON = Path(sys.executable)  # the course's own, which students use as well
GIB = 1024**3

# Limits of one student. A lesson's kernel peaks at 3 GB (lesson 08), the server beside it at 0.2 GB.
MEMORY = 4 * GIB
CPUS = 2.0
IDLE_SECONDS = 3600

c = get_config()  # type: ignore[name-defined]  # noqa: F821 (traitlets provides it)


class UserWithLimits(LocalProcessSpawner):
    """A Unix user's server; it and each of its kernels may hold `mem_limit` bytes of data, beyond which Python raises
    MemoryError in that process and nowhere else."""

    def make_preexec_fn(self, name):  # type: ignore[no-untyped-def]
        become_user = super().make_preexec_fn(name)

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_DATA, (self.mem_limit, self.mem_limit))
            become_user()

        return limited


# Who may log in. PAM asks the machine's own accounts; for your university's, install an authenticator such as
# oauthenticator or jupyterhub-ldapauthenticator and name it here.
c.JupyterHub.authenticator_class = "pam"
c.Authenticator.allow_all = True  # whoever has an account on this machine
c.PAMAuthenticator.open_sessions = False

# Behind a web server with TLS, or give ssl_key and ssl_cert here: passwords must not cross a network in the open.
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.ConfigurableHTTPProxy.command = [str(COURSE / "deploy/node_modules/.bin/configurable-http-proxy")]
c.JupyterHub.cleanup_servers = False  # a hub that is started anew finds students' servers running
c.JupyterHub.cleanup_proxy = True

if Path("/run/systemd/system").is_dir():  # systemd is this machine's init: pip install jupyterhub-systemdspawner
    c.JupyterHub.spawner_class = "systemd"
    c.SystemdSpawner.isolate_tmp = True
    c.SystemdSpawner.disable_user_sudo = True
else:
    c.JupyterHub.spawner_class = UserWithLimits
c.Spawner.mem_limit = MEMORY
c.Spawner.cpu_limit = CPUS
c.Spawner.start_timeout = 180  # when a whole class logs in at once
c.Spawner.http_timeout = 120
c.Spawner.cmd = [str(PYTHON), str(COURSE / "deploy/student_server.py")]
c.Spawner.notebook_dir = "~/peft-lessons"
c.Spawner.default_url = "/lab/tree/00_start_here.ipynb"
c.Spawner.environment = {
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",  # many students share few processors: threads that wait sleep at once
    "HF_HUB_OFFLINE": "1",
}
c.Spawner.env_keep = ["PATH", "LANG", "LC_ALL"]

# A server that nobody used for an hour is ended; its notebooks and progress are on the disk.
c.JupyterHub.load_roles = [
    {
        "name": "idle-culler",
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
        "services": ["idle-culler"],
    }
]
c.JupyterHub.services = [
    {
        "name": "idle-culler",
        "command": [str(PYTHON), "-m", "jupyterhub_idle_culler", f"--timeout={IDLE_SECONDS}"],
    }
]
