"""A student of a class server, without a browser: logs in, starts the server, runs code in a kernel, answers a quiz."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import requests
import websocket


class Student:
    """One account at the hub at `url`; `kernel()` gives a kernel on the student's own server."""

    def __init__(self, url: str, name: str, password: str) -> None:
        self.url, self.name, self.password = url, name, password
        self.server = f"{url}/user/{name}"
        self.session = requests.Session()

    def log_in(self) -> None:
        """Fill in the login form. AssertionError when the hub refuses."""
        self.session.get(f"{self.url}/hub/login")
        form = {"username": self.name, "password": self.password, "_xsrf": self._xsrf("/hub/")}
        answer = self.session.post(f"{self.url}/hub/login", data=form, allow_redirects=False)
        assert answer.status_code == 302, f"{self.name}: the hub refused the login ({answer.status_code})"

    def start(self, seconds: float = 180) -> None:
        """Ask for the server and wait until its interface answers."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            answer = self.session.get(f"{self.server}/lab")
            if answer.ok and answer.url.startswith(self.server) and "jupyter-config-data" in answer.text:
                return
            if answer.status_code == 424:  # the hub's page with the button "Start my server"
                self.session.get(f"{self.url}/hub/spawn")
            time.sleep(0.5)
        raise AssertionError(f"{self.name}: no server after {seconds} s, but {answer.status_code} at {answer.url}")

    def get(self, path: str) -> requests.Response:
        return self.session.get(f"{self.server}/api/{path}")

    def send(self, method: str, what: str, **body: Any) -> requests.Response:
        headers = {"X-XSRFToken": self._xsrf(f"/user/{self.name}/")}
        return self.session.request(method, f"{self.server}/api/{what}", json=body, headers=headers)

    def kernel(self) -> "Kernel":
        answer = self.send("POST", "kernels", name="python3", path="")
        assert answer.status_code == 201, (answer.status_code, answer.text[:500])
        return Kernel(self, answer.json()["id"])

    def _xsrf(self, path: str) -> str:
        return next(cookie.value for cookie in self.session.cookies if cookie.name == "_xsrf" and cookie.path == path)


class Kernel:
    """A kernel of a student's, through the websocket that JupyterLab uses."""

    def __init__(self, student: Student, which: str) -> None:
        self.student, self.id = student, which
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in student.session.cookies)
        address = f"{student.server.replace('http', 'ws', 1)}/api/kernels/{which}/channels"
        self.socket = websocket.create_connection(address, cookie=cookies, timeout=600)

    def run(self, code: str) -> list[dict[str, Any]]:
        """Execute a cell; returns all messages that it led to. AssertionError with the traceback when it raises."""
        messages = self._ask("execute_request", {"code": code, "silent": False, "store_history": True})
        for message in messages:
            if message["msg_type"] == "error":
                raise AssertionError("\n".join(message["content"]["traceback"]))
        return messages

    def printed(self, code: str) -> str:
        streams = (m["content"]["text"] for m in self.run(code) if m["msg_type"] == "stream")
        return "".join(streams).strip()

    def answer(self, quiz: str, letter: str) -> None:
        """Show a quiz and choose an option as its form in the browser does."""
        opened = [m for m in self.run(quiz) if m["msg_type"] == "comm_open"]
        (form,) = [m for m in opened if "answer" in m["content"]["data"]["state"]]
        data = {"method": "update", "state": {"answer": letter}, "buffer_paths": []}
        self._ask("comm_msg", {"comm_id": form["content"]["comm_id"], "data": data})

    def _ask(self, kind: str, content: dict[str, Any]) -> list[dict[str, Any]]:
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "username": "", "session": self.id, "version": "5.3"}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self.socket.send(json.dumps(message))
        seen: list[dict[str, Any]] = []
        while True:
            received = json.loads(self.socket.recv())
            if received["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            if received["msg_type"] == "status" and received["content"]["execution_state"] == "idle":
                return seen
            seen.append(received)


def code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
