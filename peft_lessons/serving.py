"""A model and its adapters behind an OpenAI-shaped API, on this computer alone: llama.cpp's own server, from a package.

One base lies in memory, and each request says which adapters it wants, by their numbers: {"lora": [{"id": 0, "scale":
1.0}]}. An adapter that a request does not name is off for it, so that one without "lora" asks the base. GET
/lora-adapters lists names and numbers.

It listens on 127.0.0.1 and answers who knows its key: without one, any page in a browser of this computer could ask it.
Nothing that was computed for one prompt is kept for another, because llama.cpp finds it again by tokens alone and would
go on with what another adapter made of them (llama.cpp's issues 26207 and 30129).
"""

import importlib.util
import re
import secrets
import shlex
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_lessons import course
from peft_lessons.accounting import decoder_shape
from peft_lessons.checkpoints.files import read_adapter
from peft_lessons.checkpoints.gguf import write_adapter
from peft_lessons.checks import check_count
from peft_lessons.files import user_path
from peft_lessons.models.gguf import GGUFFile
from peft_lessons.models.llama_gguf import config_of
from peft_lessons.models.smollm2 import weights_path

HOST, PORT, LAST_PORT = "127.0.0.1", 8080, 65535
TOGETHER = 4  # requests that are computed at the same time
CONTEXT = 2048  # tokens of each, prompt and answer
SECONDS = 60  # that a client may keep silent
NAME = re.compile(r"[\w.-]{1,64}")


@dataclass(frozen=True)
class Service:
    """Where a model answers, with which key, and the names of its adapters; their numbers are their places.

    Examples:
        >>> from peft_lessons.serving import Service
        >>> Service("http://127.0.0.1:8080", "secret", ("bierce",)).lora({"bierce": 0.5})
        [{'id': 0, 'scale': 0.5}]
    """

    address: str
    key: str
    adapters: tuple[str, ...]

    def lora(self, scales: Mapping[str, float]) -> list[dict[str, float]]:
        """Return what a request's "lora" says for adapters by name. Raises ValueError for a name that is not here."""
        if strange := [name for name in scales if name not in self.adapters]:
            raise ValueError(f"no adapter is called {strange[0]!r}; there are {', '.join(self.adapters) or 'none'}")
        return [{"id": self.adapters.index(name), "scale": scale} for name, scale in scales.items()]


@contextmanager
def serving(
    adapters: Mapping[str, str | Path] | None = None, model: str | Path | None = None, port: int = 0
) -> Iterator[Service]:
    """Serve inside this context: a GGUF file, unless told otherwise SmolLM2's, with LoRA adapters from their folders.

    Port 0 is any that is free. llama.cpp's threads and torch's wait for each other where both compute in one process.

    Raises:
        FileNotFoundError: for a missing file or folder, and when llama.cpp is not installed.
        ValueError: for a model or adapter that does not fit, and for a name of other than 1 to 64 letters, digits, "_",
            "." and "-".
        OSError: for a port that is taken.
    """
    path, folders = Path(model) if model else weights_path(), dict(adapters or {})
    if strange := [name for name in folders if not NAME.fullmatch(name)]:
        raise ValueError(f"an adapter's name is 1 to 64 letters, digits, '_', '.' and '-'; got {strange[0]!r:.80}")
    check_count("port", port, least=0)
    if port > LAST_PORT:
        raise ValueError(f"port is a number up to {LAST_PORT}, got {port}")
    if importlib.util.find_spec("xllamacpp") is None:
        install = course.pip(f"install --constraint {shlex.quote(str(course.PINS))} xllamacpp")
        raise FileNotFoundError(f"llama.cpp is not installed. Run:\n{install}")
    shape = decoder_shape(config_of(GGUFFile(path)))
    with tempfile.TemporaryDirectory(prefix="peft-lessons-") as temporary:
        files = [
            write_adapter(read_adapter(folder), Path(temporary) / f"{name}.gguf", shape, name)
            for name, folder in folders.items()
        ]
        _require_free(port)
        key = secrets.token_urlsafe(24)
        server = _start(path, files, port, key)
        try:
            yield Service(server.listening_address, key, tuple(folders))
        finally:
            del server  # which ends it


def serve(model: str, adapters: Sequence[str], port: str) -> int:
    """Serve until Ctrl+C, as `peft-lessons serve` does: adapters are NAME=FOLDER. Returns the exit status.

    Raises:
        ValueError: for an adapter without a name or folder, and for a port that is no number.
        OSError: as `serving`.
    """
    folders = {}
    for one in adapters:
        name, _, folder = one.partition("=")
        if not name or not folder or name in folders:
            raise ValueError(f"an adapter is NAME=FOLDER, each name once; got {one!r:.80}")
        folders[name] = user_path(folder)
    if port and not port.isdecimal():
        raise ValueError(f"port is a number from 0 to {LAST_PORT}, got {port!r:.20}")
    with serving(folders, user_path(model) if model else None, int(port) if port else PORT) as service:
        print(f"{model or 'SmolLM2'} answers at {service.address}/v1 until you press Ctrl+C.")
        print(f"Its key: {service.key}   (Authorization: Bearer KEY; in OpenAI's clients api_key)")
        for number, name in enumerate(service.adapters):
            print(f'Adapter {name}: "lora": [{{"id": {number}, "scale": 1.0}}]')
        print(end="", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        threading.Event().wait()
    return 0


def _require_free(port: int) -> None:
    """OSError for a port that is taken, about which llama.cpp says no more than that it did not start."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as llama.cpp does: one that was just left is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise OSError(f"port {port} cannot be used ({error.strerror}): name another, or 0 for any") from error


def _start(path: Path, adapters: Sequence[Path], port: int, key: str) -> Any:
    """Return llama.cpp's server, which runs until nothing refers to it any more."""
    from xllamacpp import CommonAdapterLoraInfo, CommonParams, Server

    params = CommonParams()
    params.model.path, params.model_alias = str(path), {path.stem}
    params.lora_adapters = [CommonAdapterLoraInfo(str(file), 0.0) for file in adapters]
    params.hostname, params.port, params.api_keys = HOST, port, [key]
    params.n_parallel, params.n_ctx = TOGETHER, TOGETHER * CONTEXT
    params.cache_prompt, params.cache_ram_mib, params.endpoint_slots = False, 0, False
    params.timeout_read = params.timeout_write = SECONDS
    params.verbosity = -1
    with _own_signals():
        try:
            return Server(params)
        except RuntimeError as error:
            raise OSError(f"llama.cpp could not start with {path} on port {port}: {error}") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep Python's handlers: llama.cpp's end the process at a second Ctrl+C, and tell Python nothing of the first."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if here else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
