"""A model and its adapters behind an OpenAI-shaped API, on this computer alone: llama.cpp's own server, from a package.

One base lies in memory, and each request says which adapters it wants, by their numbers: {"lora": [{"id": 0, "scale":
1.0}]}. An adapter that a "lora" does not name is off. A request without "lora" asks the base, as long as nobody who has
the key says otherwise with POST /lora-adapters; GET /lora-adapters lists names and numbers.

It listens on 127.0.0.1 and answers who knows its key: without one, any page in a browser of this computer could ask it.
"""

import importlib.util
import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peft_lessons import course, llama_server
from peft_lessons.accounting import ModelShape, decoder_shape
from peft_lessons.checkpoints.files import read_adapter
from peft_lessons.checkpoints.gguf import write_adapter
from peft_lessons.checks import check_count
from peft_lessons.files import user_path
from peft_lessons.llama_server import HOST
from peft_lessons.models.gguf import GGUFFile
from peft_lessons.models.llama_gguf import config_of
from peft_lessons.models.smollm2 import weights_path

PORT, LAST_PORT = 8080, 65535
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
    """Serve inside this context: a GGUF file, SmolLM2's unless told otherwise, with LoRA adapters.

    An adapter comes from its folder, ours or peft's, or from a GGUF file such as `export_gguf` writes. Port 0 is any
    that is free.

    Raises:
        FileNotFoundError: for a missing file or folder, and when llama.cpp is not installed.
        ValueError: for a model or adapter that does not fit, and for a name of other than 1 to 64 letters, digits, "_",
            "." and "-".
        OSError: for a port that is taken.
    """
    with _running(adapters or {}, model, port) as (service, _):
        yield service


def serve(model: str, adapters: Sequence[str], port: str) -> int:
    """Serve until Ctrl+C, as `peft-lessons serve` does, and start llama.cpp again should it crash.

    Adapters are NAME=FOLDER or NAME=FILE.gguf. Returns the exit status.

    Raises:
        ValueError: for an adapter without a name or folder, and for a port that is no number.
        OSError: as `serving`.
    """
    folders = {}
    for one in adapters:
        name, _, folder = one.partition("=")
        if not name or not folder or name in folders:
            raise ValueError(f"an adapter is NAME=FOLDER or NAME=FILE.gguf, each name once; got {one!r:.80}")
        folders[name] = user_path(folder)
    if port and not port.isdecimal():
        raise ValueError(f"port is a number from 0 to {LAST_PORT}, got {port!r:.20}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _running(folders, user_path(model) if model else None, int(port) if port else PORT) as (service, llama_cpp):
        print(f"{model or 'SmolLM2'} answers at {service.address}/v1 until you press Ctrl+C.")
        print(f"Its key: {service.key}   (Authorization: Bearer KEY; in OpenAI's clients api_key)")
        for number, name in enumerate(service.adapters):
            print(f'Adapter {name}: "lora": [{{"id": {number}, "scale": 1.0}}]')
        print(end="", flush=True)
        while True:
            llama_cpp.wait()
            print("llama.cpp crashed, and is started again.", file=sys.stderr, flush=True)
            llama_cpp.start()


@contextmanager
def _running(
    adapters: Mapping[str, str | Path], model: str | Path | None, port: int
) -> Iterator[tuple[Service, "_LlamaCpp"]]:
    path = Path(model) if model else weights_path()
    if strange := [name for name in adapters if not NAME.fullmatch(name)]:
        raise ValueError(f"an adapter's name is 1 to 64 letters, digits, '_', '.' and '-'; got {strange[0]!r:.80}")
    check_count("port", port, least=0)
    if port > LAST_PORT:
        raise ValueError(f"port is a number up to {LAST_PORT}, got {port}")
    if importlib.util.find_spec("xllamacpp") is None:
        install = course.pip(f"install --constraint {shlex.quote(str(course.PINS))} xllamacpp")
        raise FileNotFoundError(f"llama.cpp is not installed. Run:\n{install}")
    shape = decoder_shape(config_of(GGUFFile(path)))
    with tempfile.TemporaryDirectory(prefix="peft-lessons-") as temporary:
        files = [str(_adapter_file(Path(source), Path(temporary), shape, name)) for name, source in adapters.items()]
        _require_free(port)
        llama_cpp = _LlamaCpp(str(path.absolute()), files, port)
        try:
            address = llama_cpp.start()
            yield Service(address, llama_cpp.key, tuple(adapters)), llama_cpp
        finally:
            llama_cpp.end()


def _adapter_file(source: Path, temporary: Path, shape: ModelShape, name: str) -> Path:
    """Return an adapter as a GGUF file, which is written into `temporary` unless it is one."""
    if source.suffix != ".gguf":
        return write_adapter(read_adapter(source), temporary / f"{name}.gguf", shape, name)
    if (kind := GGUFFile(source).metadata.get("general.type")) != "adapter":
        raise ValueError(f"{source} says that its type is {kind!r:.40}, and an adapter is wanted: see export_gguf")
    return source.absolute()


def _require_free(port: int) -> None:
    """OSError for a port that is taken, about which llama.cpp says no more than that it did not start."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as llama.cpp does: one that was just left is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise OSError(f"port {port} cannot be used ({error.strerror}): name another, or 0 for any") from error


class _LlamaCpp:
    """llama.cpp in a process of its own, whose end, a crash too, is not the end of this one."""

    def __init__(self, model: str, adapters: list[str], port: int) -> None:
        self.model, self.adapters, self.port = model, adapters, port
        self.key = secrets.token_urlsafe(24)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start it, at the same port and with the same key as before; returns its address."""
        command = [sys.executable, "-m", llama_server.__name__]
        # Its threads wait for each other after every product. While they spin for long, they keep the cores from what
        # they wait for: beside two busy processes answers took nearly three times as long. Where they do not spin at
        # all, answers take half as long again on a quiet machine.
        environment = {"GOMP_SPINCOUNT": "10000", **os.environ}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        settings = {"model": self.model, "adapters": self.adapters, "port": self.port, "key": self.key}
        self.process.stdin.write(json.dumps(settings) + "\n")
        self.process.stdin.flush()
        if not (address := self.process.stdout.readline().strip()):
            raise OSError(f"llama.cpp could not start with {self.model} on port {self.port}; what it said stands above")
        self.port = int(address.rpartition(":")[2])
        return address

    def wait(self) -> None:
        """Return when it has ended."""
        if self.process is not None:
            self.process.wait()

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
