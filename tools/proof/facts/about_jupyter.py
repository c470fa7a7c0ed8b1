"""What the course says of JupyterLab and its server, ipywidgets, anywidget and nbformat, as far as Python can see it.

What shows in a browser alone is left to `make test`.
"""

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import traitlets

from tools.proof.facts.fact import fact

CONFIG = "peft_lessons/jupyter/config.py"
VIEW = "application/vnd.jupyter.widget-view+json"


def in_the_page(text: str) -> bool:
    """Whether the JavaScript that JupyterLab ships holds `text`."""
    scripts = (Path(sys.prefix) / "share/jupyter/lab/static").glob("*.js")
    return any(text in script.read_text(encoding="utf-8") for script in scripts)


# ------------------------------------------------------------------------------------------------ JupyterLab


@fact("jupyterlab", where=CONFIG, says='"@jupyterlab/apputils-extension:announcements"', expected=True)
def announcements(jupyterlab: Any) -> bool:
    """The part that fetches news is called @jupyterlab/apputils-extension:announcements."""
    return in_the_page("@jupyterlab/apputils-extension:announcements")


@fact("jupyterlab", where=CONFIG, says='c.LabApp.extension_manager = "readonly"', expected=True)
def readonly_extensions(jupyterlab: Any) -> bool:
    """One of the extension managers is called readonly."""
    return "readonly" in {each.name for each in metadata.entry_points(group="jupyterlab.extension_manager_v1")}


@fact(
    "jupyterlab",
    where="peft_lessons/classroom/widgets/progress.js",
    says="its command linker opens a tab instead",
    expected=[],
)
def command_linker(jupyterlab: Any) -> list[str]:
    """A link's attribute data-commandlinker-command names a command, and docmanager:open is one."""
    wanted = ("commandlinker-command", "commandlinker-args", "docmanager:open")
    return [name for name in wanted if not in_the_page(name)]


@fact(
    "jupyterlab", where="peft_lessons/classroom/widgets/theme.css", says='[data-jp-theme-light="false"]', expected=True
)
def theme_attribute(jupyterlab: Any) -> bool:
    """The page says by an attribute jp-theme-light whether its theme is light."""
    return in_the_page("jpThemeLight") or in_the_page("jp-theme-light")


@fact(
    "jupyterlab",
    where=CONFIG,
    says='c.ServerApp.tornado_settings = {"page_config_hook": page_config}',
    expected=True,
)
def page_config_hook(jupyterlab: Any) -> bool:
    """A setting page_config_hook may change what the page is told."""
    from jupyterlab_server import handlers

    return "page_config_hook" in Path(handlers.__file__).read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------- server


@fact(
    "jupyter-server",
    where=CONFIG,
    says="c.ServerApp.kernel_websocket_connection_class = PromptWebsocket",
    expected={"class": True, "handler": True, "set_nodelay": True},
)
def kernel_websocket(jupyter_server: Any) -> dict[str, bool]:
    """The class of kernels' websockets can be chosen, and its handler's set_nodelay sends each message at once."""
    from jupyter_server.serverapp import ServerApp
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
    from jupyter_server.services.kernels.websocket import KernelWebsocketHandler

    class Other(ZMQChannelsWebsocketConnection):
        pass

    return {
        "class": ServerApp(kernel_websocket_connection_class=Other).kernel_websocket_connection_class is Other,
        "handler": "websocket_handler" in Other.class_trait_names(),
        "set_nodelay": hasattr(KernelWebsocketHandler, "set_nodelay"),
    }


@fact(
    "jupyter-server",
    where="README.md",
    says="As root, in a container for instance, JupyterLab refuses to start",
    expected=False,
)
def root_may_start(jupyter_server: Any) -> bool:
    """The server lets root start it with allow_root alone."""
    from jupyter_server.serverapp import ServerApp

    return ServerApp().allow_root


@fact(
    "jupyter-server",
    where="docs/security.md",
    says="listen on 127.0.0.1 alone, with a random token",
    expected=(True, True),
)
def random_token(jupyter_server: Any) -> tuple[bool, bool]:
    """Each server makes a token of its own unless told otherwise."""
    from jupyter_server.auth import IdentityProvider

    one, other = IdentityProvider().token, IdentityProvider().token
    return len(one) >= 32, one != other


@fact("nbformat", where="docs/security.md", says="JupyterLab does not trust it", expected=(False, True))
def untrusted_notebooks(nbformat: Any) -> tuple[bool, bool]:
    """A notebook is trusted only once it was signed here."""
    from nbformat.sign import MemorySignatureStore, NotebookNotary

    notary = NotebookNotary(store_factory=MemorySignatureStore, secret=b"secret")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    before = notary.check_signature(notebook)
    notary.sign(notebook)
    return before, notary.check_signature(notebook)


# --------------------------------------------------------------------------------------------------- widgets


@fact(
    "ipywidgets",
    where="peft_lessons/classroom/widgets/quiz.py",
    says="Test and restore before the browser hears of the widget",
    expected=["values", "open"],
)
def widgets_open_last(ipywidgets: Any) -> list[str]:
    """A widget calls its method open once its values are set, and only then does the browser hear of it."""
    order = []

    class Probe(ipywidgets.Widget):
        value = traitlets.Int().tag(sync=True)

        @traitlets.observe("value")
        def _changed(self, change: Any) -> None:
            order.append("values")

        def open(self) -> None:
            order.append("open")
            assert self.comm is None
            super().open()

    Probe(value=1)
    return order


@fact(
    "ipywidgets",
    where="peft_lessons/classroom/widgets/sliders.py",
    says="# One index into the labels per slider. No echo",
    expected=(1, 0),
)
def echoes(ipywidgets: Any) -> tuple[int, int]:
    """What the browser sets is echoed to it, but not a trait with the tag echo_update=False."""

    class Probe(ipywidgets.Widget):
        echoed = traitlets.Int().tag(sync=True)
        kept = traitlets.Int().tag(sync=True, echo_update=False)

    widget = Probe()
    sent: list[Any] = []
    widget.comm.publish_msg = lambda kind, data=None, **_: sent.append((data or {}).get("method"))

    def echoes_of(name: str) -> int:
        sent.clear()
        widget.set_state({name: 1})
        return sent.count("echo_update")

    return echoes_of("echoed"), echoes_of("kept")


@fact(
    "anywidget",
    where="peft_lessons/classroom/widgets/quiz.py",
    says='bundle[0]["text/markdown"] = _folded(self._question)',
    expected=(VIEW, True),
)
def bundle_of_a_widget(anywidget: Any) -> tuple[str, bool]:
    """A widget's mime bundle is a pair whose first part holds the widget's view."""
    bundle = anywidget.AnyWidget(_esm="export default {}")._repr_mimebundle_()
    return next(kind for kind in bundle[0] if "widget-view" in kind), len(bundle) == 2


@fact(
    "anywidget",
    where="peft_lessons/classroom/widgets/quiz.py",
    says='_esm = source("parts.js", "quiz.js")',
    expected=True,
)
def script_of_a_class(anywidget: Any) -> bool:
    """A class whose _esm is a script gives its widgets that script."""
    script = "export default { render() {} }"
    return type("Probe", (anywidget.AnyWidget,), {"_esm": script})()._esm == script
