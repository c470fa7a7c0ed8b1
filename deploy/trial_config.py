"""The class server for a trial on your own computer: `make class`, then log in as any name with the printed password.

No root, no accounts: all students are you, so their files are *not* kept from each other, and nothing limits them.
Everything lies in .class in the course's folder (or where PEFT_LESSONS_CLASS says); delete that to begin again.
"""

import os
import secrets
from pathlib import Path

HERE = Path(__file__).resolve().parent
STATE = Path(os.environ.get("PEFT_LESSONS_CLASS") or HERE.parent / ".class")
STATE.mkdir(parents=True, exist_ok=True)

c = get_config()  # type: ignore[name-defined]  # noqa: F821 (traitlets provides it)
load_subconfig(str(HERE / "jupyterhub_config.py"))  # type: ignore[name-defined]  # noqa: F821 (traitlets provides it)

password = secrets.token_urlsafe(9)
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = password
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = str(STATE / "home/{username}")
c.JupyterHub.db_url = f"sqlite:///{STATE / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(STATE / "cookie_secret")
c.ConfigurableHTTPProxy.pid_file = str(STATE / "proxy.pid")
c.JupyterHub.cleanup_servers = True
print(f"\nA trial of the class server: http://127.0.0.1:8000, any name, password {password}\n", flush=True)
