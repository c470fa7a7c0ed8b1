"""JupyterLab's settings when it opens the course, whether `server.py` starts it or a class server."""

import os
from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection


def without_announcements(_handler: object, page: dict[str, Any]) -> dict[str, Any]:
    """Switches off the part of JupyterLab that fetches news, asks for updates and offers both in a pop-up."""
    page["disabledExtensions"] = [*page.get("disabledExtensions", []), "@jupyterlab/apputils-extension:announcements"]
    return page


class PromptWebsocket(ZMQChannelsWebsocketConnection):
    """Sends each message at once. By default small ones wait for an acknowledgement, which makes live figures lag."""

    def connect(self) -> Any:
        self.websocket_handler.set_nodelay(True)
        return super().connect()


# Kernels inherit them and torch reads them once, when it is imported. Threads that wait leave the processor to others,
# but not at once: for some microseconds they look whether there is more to do. Else small models take up to twice as
# long, since waking a thread takes longer than their products.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

c = get_config()  # type: ignore[name-defined]  # noqa: F821 (traitlets provides it)
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.tornado_settings = {"page_config_hook": without_announcements}
c.LabApp.extension_manager = "readonly"
c.ServerApp.kernel_websocket_connection_class = PromptWebsocket
# Terminals find the course's commands. A login shell, the default outside a terminal, may set the search path anew.
if os.name != "nt":
    c.ServerApp.terminado_settings = {"shell_command": [os.environ.get("SHELL") or "sh"]}
