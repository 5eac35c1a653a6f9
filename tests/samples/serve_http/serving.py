"""Starts the server in a thread, or by serve.sh."""

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from patch_compile.runtime import Generator
from samples.serve_http import server as module
from samples.serve_http.app import Service
from samples.serve_http.server import make_server
from tests.work import until

SERVE = Path(module.__file__).with_name("serve.sh")
LONG = 12000  # tokens, about ten seconds, so that a request can be ended before it is complete


@dataclass
class Running:
    """A running server."""

    url: str
    log: Path | None = None
    process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=600)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}/{path}", timeout=600)

    def post(self, body: Any, path: str = "completions") -> httpx.Response:
        return httpx.post(f"{self.url}/v1/{path}", json=body, timeout=600)

    def count(self, name: str) -> int:
        """A number of /health: `running` or `waiting`."""
        return int(self.get("health").json()[name])

    def wait_for(self, name: str, value: int) -> None:
        until(lambda: self.count(name) == value, lambda: f"{name} is {self.count(name)}, and not {value}")


@contextmanager
def serving(generator: Generator, **limits: Any) -> Iterator[Running]:
    """Run the server in a thread with a test's limits; else nothing ends by a clock. At the end it shuts down."""
    listener = socket.create_server(("127.0.0.1", 0))
    limits = {"model": "tiny", "timeout": 3600, "client_timeout": 3600} | limits
    server = make_server(Service(generator, **limits))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    until(lambda: server.started or not thread.is_alive(), "the server has not started")
    assert server.started
    try:
        yield Running(url)
    finally:
        server.should_exit = True
        thread.join(600)
        assert not thread.is_alive()


@contextmanager
def process(out: Path, log: Path, *options: str) -> Iterator[Running]:
    """Run the server by serve.sh on a free port."""
    with log.open("w") as stderr:
        command = [SERVE, out, "--port", "0", "--runner", "onnx", *options]
        # the user may be in another folder
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=log.parent)
    try:
        assert started.stdout
        line = started.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), log.read_text()
        yield Running(line.partition("/v1 serves tiny")[0], log, started)
    finally:
        started.kill()
        started.wait()


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(call()))
    thread.start()
    return thread, got
