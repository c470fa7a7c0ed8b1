"""The server for several adapters: what it answers, whom, and that nothing which a client does ends it."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from peft_lessons import LoRAConfig, cli, export_gguf, inject, load_adapter, merge, save_adapter
from peft_lessons.llama_server import HOST
from peft_lessons.models import Decoder, generate, load_gguf, load_tiny_gpt, save_gguf
from peft_lessons.serving import Service, serving

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp, which brings llama.cpp, is not installed"
)
ROOT = Path(__file__).resolve().parents[1]
PROMPT = "It was a truth universally acknowledged, that"
NEW = 16  # tokens
NAMES = ("first", "second")


def adapted(seed: int) -> tuple[Decoder, LoRAConfig]:
    config = LoRAConfig(rank=4, targets=("q_proj", "k_proj", "down_proj"))
    model = inject(load_tiny_gpt()[0], config)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return model, config


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The tiny GPT in fp32, without a token that ends a text early, and two adapters."""
    folder = tmp_path_factory.mktemp("serving")
    save_gguf(*load_tiny_gpt(), folder / "tiny.gguf", "F32")
    for seed, name in enumerate(NAMES):
        save_adapter(*adapted(seed), folder / name)
    return folder


def started(folder: Path, *words: str) -> tuple[subprocess.Popen, Service]:
    adapters = [word for name in NAMES for word in ("--adapter", f"{name}={folder / name}")]
    command = [sys.executable, "-m", "peft_lessons", "serve", str(folder / "tiny.gguf"), *adapters, *words]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = "".join(server.stdout.readline() for _ in range(2 + len(NAMES)))
    assert "Adapter second" in said, said + server.communicate()[1]
    return server, Service(re.search(r"at (\S+)/v1", said)[1], re.search(r"key: (\S+)", said)[1], NAMES)


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[tuple[subprocess.Popen, Service]]:
    server, service = started(folder, "--port", "0")
    yield server, service
    server.kill()
    server.communicate()


@pytest.fixture
def service(running) -> Service:
    """The server, which each test must leave answering."""
    server, service = running
    yield service
    assert server.poll() is None
    assert ask(service)["choices"][0]["text"]


def request(service: Service, path: str, body: bytes | None = None, key: str | None = None, **headers: str) -> bytes:
    headers = {
        "Authorization": f"Bearer {service.key if key is None else key}",
        "Content-Type": "application/json",
        **headers,
    }
    with urllib.request.urlopen(urllib.request.Request(service.address + path, body, headers), timeout=120) as answer:
        return answer.read()


def ask(service: Service, scales: dict[str, float] | None = None, **settings: object) -> dict:
    body = {"prompt": PROMPT, "max_tokens": NEW, "temperature": 0, **settings}
    body |= {} if scales is None else {"lora": service.lora(scales)}
    return json.loads(request(service, "/v1/completions", json.dumps(body).encode()))


def text(service: Service, scales: dict[str, float] | None = None, **settings: object) -> str:
    return ask(service, scales, **settings)["choices"][0]["text"]


def ours(folder: Path, *names: str, prompt: str = PROMPT) -> str:
    """What the decoder writes with these adapters' updates added to its weights."""
    model, tokenizer = load_gguf(folder / "tiny.gguf")
    for name in names:
        merge(load_adapter(model, folder / name))
    ids = torch.tensor([tokenizer.encode(prompt)])
    return tokenizer.decode(generate(model, ids, NEW, eos_id=tokenizer.eos_id)[0])


@pytest.mark.slow
def test_each_request_names_its_adapters(service: Service, folder: Path) -> None:
    """In an order in which what llama.cpp keeps of one prompt would be wrong for the next."""
    expected = {
        (): ours(folder),
        ("first",): ours(folder, "first"),
        ("second",): ours(folder, "second"),
        NAMES: ours(folder, *NAMES),
    }
    assert len(set(expected.values())) == 4
    for names in [(), ("first",), (), ("second",), NAMES, ("first",), (), NAMES]:
        assert text(service, dict.fromkeys(names, 1.0) if names else None) == expected[names], names
        assert text(service, dict.fromkeys(names, 1.0), prompt="Something else, which takes the slot,")
    assert text(service, {"first": 0.0}) == expected[()]


@pytest.mark.slow
def test_prompts_are_not_answered_from_what_another_adapter_made_of_them(service: Service) -> None:
    """Scale 0, other prompts that take all slots, scale 1: the whole prompt is read again."""
    plain = text(service, {"first": 1.0})
    for _ in range(2):
        ask(service, {"first": 0.0})
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: ask(service, {"first": 1.0}, prompt=f"Chapter {i}. There was"), range(8)))
        answer = ask(service, {"first": 1.0})
        assert answer["choices"][0]["text"] == plain
        assert answer["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0) == 0


@pytest.mark.slow
def test_what_requests_get_that_name_no_adapter(service: Service) -> None:
    """Who has the key can change it for all; a request that says what it wants gets that all the same."""
    off, on = text(service, {"first": 0.0}), text(service, {"first": 1.0})
    for scale, expected in ((1.0, on), (0.0, off)):
        request(service, "/lora-adapters", json.dumps([{"id": 0, "scale": scale}]).encode())
        assert text(service) == expected
        assert (text(service, {"first": 1.0}), text(service, {"first": 0.0})) == (on, off)


@pytest.mark.slow
def test_an_adapter_may_come_as_a_file(service: Service, folder: Path, tmp_path: Path) -> None:
    """Such as one that somebody else wrote for llama.cpp."""
    file = export_gguf(folder / "first", tmp_path / "written.gguf", base=folder / "tiny.gguf")
    with serving({"file": file, "folder": folder / "second"}, folder / "tiny.gguf") as one:
        assert text(one, {"file": 1.0}) == text(service, {"first": 1.0})
        assert text(one, {"folder": 1.0}) == text(service, {"second": 1.0})


@pytest.mark.slow
def test_names_numbers_and_the_shape_of_openai(service: Service) -> None:
    listed = json.loads(request(service, "/lora-adapters"))
    assert [(one["id"], one["task_name"], one["scale"]) for one in listed] == [(0, "first", 0.0), (1, "second", 0.0)]
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    answer = json.loads(request(service, "/v1/chat/completions", json.dumps(chat).encode()))
    assert answer["object"] == "chat.completion" and answer["usage"]["completion_tokens"] <= 4
    assert json.loads(request(service, "/v1/models"))["data"][0]["id"] == "tiny"
    stream = request(
        service, "/v1/completions", json.dumps({"prompt": PROMPT, "max_tokens": 3, "stream": True}).encode()
    )
    assert stream.startswith(b"data: {") and stream.rstrip().endswith(b"data: [DONE]")


@pytest.mark.slow
def test_only_this_computer_and_who_has_the_key(service: Service) -> None:
    for key in ("", "wrong", service.key[:-1], service.key + "x"):
        for path, body in (
            ("/v1/completions", b'{"prompt": "a", "max_tokens": 1}'),
            ("/lora-adapters", None),
            ("/props", None),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                request(service, path, body, key=key)
            assert refused.value.code == 401
    port = int(service.address.rpartition(":")[2])
    assert service.address == f"http://{HOST}:{port}"
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {HOST}
    for address in (*others, "127.0.0.2"):
        with pytest.raises(OSError), socket.create_connection((address, port), timeout=2):
            pass


MALFORMED = {
    "nothing": b"",
    "no JSON": b"{",
    "deep": b'{"prompt": ' + b"[" * 100_000,
    "another type": b"[1, 2]",
    "no prompt": b"{}",
    "a number as prompt": b'{"prompt": 7}',
    "no such token": b'{"prompt": [99999999, -1], "max_tokens": 1}',
    "bytes": b'{"prompt": "\xff\xfe", "max_tokens": 1}',
    "an unpaired surrogate": b'{"prompt": "\\ud800", "max_tokens": 1}',
    "zeros": b'{"prompt": "a\\u0000b", "max_tokens": 1}',
    "no tokens": b'{"prompt": "a", "max_tokens": 0}',
    "negative tokens": b'{"prompt": "a", "max_tokens": -7}',
    "many tokens": b'{"prompt": "a", "max_tokens": 99999999999999999999}',
    "a long prompt": json.dumps({"prompt": "a " * 100_000, "max_tokens": 1}).encode(),
    "no such adapter": b'{"prompt": "a", "max_tokens": 1, "lora": [{"id": 7, "scale": 1}]}',
    "a negative adapter": b'{"prompt": "a", "max_tokens": 1, "lora": [{"id": -1, "scale": 1}]}',
    "a name as number": b'{"prompt": "a", "max_tokens": 1, "lora": [{"id": "first", "scale": "x"}]}',
    "adapters as text": b'{"prompt": "a", "max_tokens": 1, "lora": "first"}',
    "an adapter that is null": b'{"prompt": "a", "max_tokens": 1, "lora": [null]}',
    "a scale without end": b'{"prompt": "a", "max_tokens": 2, "lora": [{"id": 0, "scale": 1e39}]}',
    "a scale far off": b'{"prompt": "a", "max_tokens": 2, "lora": [{"id": 0, "scale": -1e30}]}',
    "a temperature": b'{"prompt": "a", "max_tokens": 2, "temperature": -1e300}',
    "many choices": b'{"prompt": "a", "max_tokens": 1, "n": 100000}',
    "many log-probabilities": b'{"prompt": "a", "max_tokens": 1, "n_probs": 2000000000}',
    "a grammar": b'{"prompt": "a", "max_tokens": 2, "grammar": "root ::= root root"}',
    "a broken grammar": b'{"prompt": "a", "max_tokens": 2, "grammar": "root ::= ("}',
    "a schema": b'{"prompt": "a", "max_tokens": 2, "json_schema": {"$ref": "#/nowhere"}}',
    "a pattern": b'{"prompt": "a", "max_tokens": 2, "json_schema": {"type": "string", "pattern": "^(a+)+$"}}',
    "a bias": b'{"prompt": "a", "max_tokens": 2, "logit_bias": [[99999999, 1e300], ["x", false]]}',
    "samplers": b'{"prompt": "a", "max_tokens": 2, "samplers": ["nonsense"], "mirostat": 9, "top_k": -5}',
    "a stop": b'{"prompt": "a", "max_tokens": 2, "stop": [[], {}, 7]}',
    "a slot": b'{"prompt": "a", "max_tokens": 1, "id_slot": 99}',
    "many prompts": json.dumps({"prompt": ["a"] * 500, "max_tokens": 1}).encode(),
}


@pytest.mark.slow
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_malformed_request_is_refused_or_answered(service: Service, path: str, body: bytes) -> None:
    if "chat" in path:
        body = body.replace(b'"prompt": "a"', b'"messages": [{"role": "user", "content": "a"}]').replace(
            b'"prompt"', b'"messages"'
        )
    try:
        request(service, path, body)
    except urllib.error.HTTPError as refused:
        assert 400 <= refused.code <= 501 and len(refused.read()) < 10_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/slots", "/slots/0?action=save", "/models/load", "/%00", "/" + "a" * 20_000]
)
def test_other_paths_lead_nowhere(service: Service, path: str) -> None:
    with pytest.raises((urllib.error.HTTPError, ConnectionError)) as refused:
        request(service, path, b"{}" if "slots/" in path or "load" in path else None)
    assert not isinstance(refused.value, urllib.error.HTTPError) or b"root:" not in refused.value.read()


def connected(service: Service) -> socket.socket:
    host, port = service.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(service: Service, length: int) -> bytes:
    lines = (
        "POST /v1/completions HTTP/1.1",
        f"Host: {HOST}",
        f"Authorization: Bearer {service.key}",
        f"Content-Length: {length}",
    )
    return "\r\n".join((*lines, "", "")).encode()


@pytest.mark.slow
def test_clients_that_are_killed(service: Service) -> None:
    """While they send, while they wait, while they listen; then the server still has room for others at once."""
    body = json.dumps({"prompt": PROMPT, "max_tokens": 500, "ignore_eos": True, "stream": True}).encode()
    for sent, heard in (
        (head(service, len(body)) + body[:9], 0),
        (head(service, len(body)) + body, 0),
        (head(service, len(body)) + body, 64),
    ):
        for _ in range(5):
            client = connected(service)
            client.sendall(sent)
            if heard:
                client.recv(heard)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # as a killed process: a reset
            client.close()
    start = time.monotonic()
    assert text(service)
    assert time.monotonic() - start < 30


@pytest.mark.slow
def test_a_flood(service: Service, folder: Path) -> None:
    """200 requests of 8 clients, adapters mixed, beside 100 connections that say nothing: each gets its own answer."""
    silent = [connected(service) for _ in range(100)]
    choices = [None, {"first": 1.0}, {"second": 1.0}]
    expected = [ours(folder), ours(folder, "first"), ours(folder, "second")]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: text(service, choices[i % 3]), range(200)))
    assert answers == [expected[i % 3] for i in range(200)]
    for client in silent:
        client.close()


# ------------------------------------------------------------------------------------------------- starting and ending


@pytest.mark.slow
def test_a_context_in_python(folder: Path) -> None:
    """What a lesson uses; the context ends even while an answer is being written."""
    with serving({"second": folder / "second"}, folder / "tiny.gguf") as service:
        assert text(service, {"second": 1.0}) == ours(folder, "second")
        busy = threading.Thread(target=ask_in_vain, args=(service,))
        busy.start()
        time.sleep(0.2)
    busy.join(30)
    with pytest.raises(OSError):
        ask(service)


@pytest.mark.slow
def test_a_crash_of_llama_cpp(folder: Path) -> None:
    """It answers again, at the same address and for the same key; when all is killed, nothing stays."""
    server, service = started(folder, "--port", "0")
    (child,) = psutil.Process(server.pid).children()
    assert service.key not in " ".join([*child.cmdline(), *child.environ().values()])
    expected = text(service, {"first": 1.0})
    child.kill()
    for _ in range(100):
        with suppress(OSError):
            assert text(service, {"first": 1.0}) == expected
            break
        time.sleep(0.2)
    else:
        pytest.fail("it did not come back")
    (child,) = psutil.Process(server.pid).children()
    server.kill()
    assert "crashed, and is started again" in server.communicate()[1]
    child.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_asked_to_and_leaves_nothing(folder: Path, number: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server, service = started(folder, "--port", "0")
    busy = threading.Thread(target=ask_in_vain, args=(service,))
    busy.start()
    assert list(tmp_path.iterdir())
    (child,) = psutil.Process(server.pid).children()
    time.sleep(0.5)
    server.send_signal(number)
    _, errors = server.communicate(timeout=30)
    busy.join(30)
    assert server.returncode == 130 and "Traceback" not in errors
    assert not list(tmp_path.iterdir()) and not busy.is_alive() and not child.is_running()


def ask_in_vain(service: Service) -> None:
    with suppress(OSError):
        ask(service, max_tokens=1500, ignore_eos=True)


def said(capsys, *words: str) -> str:
    assert cli.main(["serve", *words]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_served_is_named(folder: Path, tmp_path: Path, capsys) -> None:
    model = str(folder / "tiny.gguf")
    assert "No such file" in said(capsys, str(tmp_path / "nothing.gguf"))
    (tmp_path / "text.gguf").write_text("hello")
    assert "is not a GGUF file" in said(capsys, str(tmp_path / "text.gguf"))
    assert "holds no adapter_config.json" in said(capsys, model, "--adapter", f"a={tmp_path}")
    assert "an adapter is NAME=FOLDER or NAME=FILE.gguf, each name once; got 'a'" in said(
        capsys, model, "--adapter", "a"
    )
    assert "each name once" in said(capsys, model, *(f"--adapter=a={folder / 'first'}",) * 2)
    assert "an adapter's name is 1 to 64" in said(capsys, model, "--adapter", f"../a={folder / 'first'}")
    assert "port is a number from 0 to 65535, got '-1'" in said(capsys, model, "--port=-1")
    assert "port is a number up to 65535, got 70000" in said(capsys, model, "--port", "70000")
    assert "its type is 'model', and an adapter is wanted" in said(capsys, model, "--adapter", f"a={model}")
    other = LoRAConfig(rank=2, targets=("0",))
    save_adapter(inject(nn.Sequential(nn.Linear(8, 8)), other), other, tmp_path / "other")
    assert "0 is no matrix of this base" in said(capsys, model, "--adapter", f"a={tmp_path / 'other'}")


def test_a_port_that_is_taken(folder: Path, capsys) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} cannot be used" in said(capsys, str(folder / "tiny.gguf"), "--port", str(port))


def test_without_llama_cpp_it_says_what_installs_it(folder: Path, capsys, monkeypatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "xllamacpp" else found(name, *rest)
    )
    assert re.search(
        r"llama.cpp is not installed. Run:\n.* -m pip install .* xllamacpp", said(capsys, str(folder / "tiny.gguf"))
    )


@pytest.mark.slow
def test_the_key_is_new_each_time_and_in_no_command_line(running) -> None:
    server, service = running
    assert len(service.key) >= 32
    if os.path.exists(f"/proc/{server.pid}/cmdline"):
        assert service.key not in Path(f"/proc/{server.pid}/cmdline").read_text()
        assert service.key not in Path(f"/proc/{server.pid}/environ").read_text()


def test_a_name_that_is_not_served() -> None:
    with pytest.raises(ValueError, match="no adapter is called 'x'; there are first, second"):
        Service("", "", NAMES).lora({"x": 1.0})
