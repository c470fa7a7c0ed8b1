"""JupyterLab's settings when it opens the course, whether `server.py` starts it or a class server."""

import json
import os
from pathlib import Path
from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

from peft_lessons.jupyter import WAITING
from peft_lessons.lessons.glossary import as_data

EXTENSIONS = Path(__file__).parent / "labextensions"


def page_config(_handler: object, page: dict[str, Any]) -> dict[str, Any]:
    """Hand over the glossary; switch off what fetches news and asks for updates and, but for a talk, the slides."""
    page["peftLessonsGlossary"] = json.dumps(as_data())
    off = ["@jupyterlab/apputils-extension:announcements"]
    if "PEFT_LESSONS_TALK" not in os.environ:
        off.append("peft-lessons-presenter")
    page["disabledExtensions"] = [*page.get("disabledExtensions", []), *off]
    return page


class PromptWebsocket(ZMQChannelsWebsocketConnection):
    """Sends each message at once. By default small ones wait for an acknowledgement, which makes live figures lag."""

    def connect(self) -> Any:
        self.websocket_handler.set_nodelay(True)
        return super().connect()


for name, value in WAITING.items():  # kernels inherit them
    os.environ.setdefault(name, value)

c = get_config()  # type: ignore[name-defined]  # noqa: F821 (traitlets provides it)
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.tornado_settings = {"page_config_hook": page_config}
c.LabApp.extension_manager = "readonly"
c.LabApp.extra_labextensions_path = [str(EXTENSIONS)]
c.ServerApp.kernel_websocket_connection_class = PromptWebsocket
# Terminals find the course's commands. A login shell, the default outside a terminal, may set the search path anew.
if os.name != "nt":
    c.ServerApp.terminado_settings = {"shell_command": [os.environ.get("SHELL") or "sh"]}
