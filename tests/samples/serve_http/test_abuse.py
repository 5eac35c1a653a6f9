"""Clients that are slow, leave, read nothing, are too many, or send extreme values."""

import asyncio
import json
import logging
import os
import resource
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import httpx
import pytest

from patch_compile.runtime import Generator
from samples.serve_http import server as module
from samples.serve_http.server import Server
from tests.samples.serve_http.raw import EXTREMES, HEAD, connected, read_until, request, to_the_end
from tests.samples.serve_http.serving import LONG, Running, alone, serving
from tests.work import until


class Counted:
    """A server whose work is counted: the functions that its threads call, and the most bytes that Python holds."""

    def __init__(self) -> None:
        self.running: Running
        self._calls = 0

    def count(self, frame: FrameType, event: str, argument: object) -> None:
        self._calls += event in ("call", "c_call")

    def post(self, body: str, path: str = "completions") -> httpx.Response:
        """Send a request. Fails if the server works more than in proportion to its size."""
        before, headers = self._calls, {"content-type": "application/json"}
        tracemalloc.start()
        try:
            url = f"{self.running.url}/v1/{path}"
            answer = httpx.post(url, content=body.encode(), headers=headers, timeout=600)
            held = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert self._calls - before < 50_000 + 3 * len(body)
        assert held < 5_000_000 + 40 * len(body)
        return answer


@pytest.fixture(scope="module")
def counted(generator: Generator) -> Iterator[Counted]:
    made = Counted()
    threading.setprofile(made.count)
    try:
        with serving(generator) as made.running:
            threading.setprofile(None)  # type: ignore[arg-type]  # typeshed does not know that None ends it
            yield made
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", EXTREMES, ids=lambda given: given[:40])
def test_extreme_values(counted: Counted, given: str) -> None:
    """The answer is a result or a refusal in OpenAI's format, and takes little work."""
    defaults = "" if '"max_tokens"' in given else '"max_tokens": 8, '
    body = f'{{"prompt": "the cat sat", {defaults}{given}}}'
    answer = counted.post(body)
    if answer.status_code == 200:
        assert answer.json()["choices"][0]["finish_reason"] in ("length", "stop")
    else:
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_chat_with_many_wrong_messages(counted: Counted) -> None:
    """One of them is described: to describe all would take the server seconds, in which it answers nobody."""
    for messages in ([{}] * 300_000, [{f"k{i}": 1 for i in range(60_000)}]):
        answer = counted.post(json.dumps({"messages": messages}, separators=(",", ":")), "chat/completions")
        assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("messages.0")


def test_prompts_that_need_too_much_memory(generator: Generator) -> None:
    """Reading prompts takes memory by the square of their length: one request is refused, many wait for each other."""
    with serving(generator, max_prompt=64) as running:
        for body in (
            {"prompt": "the " * 65},
            {"prompt": ["the", "the " * 33]},
            {"prompt": "the " * 33, "n": 2},
        ):
            answer = running.post(body)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "context_length_exceeded"
        threads = [threading.Thread(target=running.post, args=({"prompt": "the " * 60},)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)
        assert running.metric('generations_total{outcome="finished"}') == 6


def drip(client: socket.socket) -> None:
    """Send a byte from time to time, until the server closes the connection."""

    def closed() -> bool:
        try:
            client.sendall(b"x")
        except OSError:
            return True
        return False

    until(closed, "the connection is still open")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b" 408 "),
        (b"POST /v1/completions HTTP/1.1\r\nX-Slow: ", b" 408 "),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b" 408 "),
        (HEAD + b"Content-Length: 100000000\r\n\r\n", b" 413 "),  # what follows is read, for a while
        (request() + b"GET /health HTTP/1.1\r\nX-Slow: ", b" 200 "),
    ],
    ids=["silent", "headers", "body", "refused body", "second request"],
)
def test_a_request_that_does_not_arrive(generator: Generator, sent: bytes, answer: bytes) -> None:
    """Each byte in time does not help: the time is that of the whole request."""
    with serving(generator, client_timeout=1) as running, connected(running) as client:
        client.sendall(sent)
        if sent:
            drip(client)
        assert answer in client.recv(1 << 16).partition(b"\r\n")[0]


def test_a_body_is_refused_before_it_is_read(generator: Generator) -> None:
    with serving(generator) as running, connected(running) as client:
        client.sendall(HEAD + b"Content-Length: 100000000\r\nExpect: 100-continue\r\n\r\n")
        got = read_until(client, b"body_too_large")
        assert got.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_ends_its_side_gets_its_answer(
    generator: Generator, stream: bool, version: bytes
) -> None:
    """It waits for a worker first, so that the server asks whether it is still there."""
    expected = alone(generator, "the cat", 8)
    with serving(generator, max_batch=1, max_new_tokens=LONG) as running, connected(running) as client:
        busy = threading.Thread(target=running.post, args=({"prompt": "dog", "max_tokens": 600},))
        busy.start()
        running.wait_for("running", 1)
        client.sendall(request(stream=stream).replace(b"HTTP/1.1", b"HTTP/" + version))
        client.shutdown(socket.SHUT_WR)
        got = to_the_end(client)
        busy.join(600)
        assert running.metric('generations_total{outcome="finished"}') == 2
    questions, _, answer = got.partition(b" 200 OK\r\n")
    assert (b"100" in questions) is (version == b"1.1")
    events = [json.loads(line[6:]) for line in answer.split(b"\n") if line.startswith(b"data: {")]
    whole = [json.loads(answer.partition(b"\r\n\r\n")[2])] if not stream else events
    assert "".join(one["choices"][0]["text"] for one in whole) == expected


def test_a_client_that_reads_nothing_is_left(generator: Generator) -> None:
    """Its connection is ended, though it is open and its generation is long done, and so is a large answer's."""
    name = "tiny" * 1000  # every chunk contains the name, 10 MB in all
    with serving(generator, client_timeout=1, model=name) as running, connected(running) as client:
        client.sendall(request(prompt=["the cat"] * 16, max_tokens=160, stream=True))
        running.wait_for('generations_total{outcome="disconnected"}', 1)
        assert not to_the_end(client).endswith(b"\r\n0\r\n\r\n")  # the end of a whole stream


def test_a_flood_of_headers(generator: Generator) -> None:
    with serving(generator) as running, connected(running) as client:
        client.sendall(HEAD + b"".join(b"X-%d: flood\r\n" % i for i in range(5000)))
        assert read_until(client, b'"type":"invalid_request_error"').startswith(b"HTTP/1.1 400 ")


def test_too_many_connections(generator: Generator) -> None:
    with serving(generator, connections=3) as running:
        idle = [socket.create_connection(running.address) for _ in range(3)]
        with connected(running) as client:
            got = to_the_end(client)
        assert (
            got.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in got and b"too_many_connections" in got
        )
        for one in idle:
            one.close()
        assert running.post({"prompt": "the cat", "max_tokens": 1}).status_code == 200


@contextmanager
def without_descriptors(running: Running) -> Iterator[list[socket.socket]]:
    """Clients that connect to the server while this process, which both are, can open no file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [socket.socket() for _ in range(40)]
    taken: list[int] = []
    highest = max(int(file.name) for file in Path("/proc/self/fd").iterdir())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for client in clients:
            client.connect(running.address)
        yield clients
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Keeps the failures that the event loop tells the server: one for each connection that it tries to accept."""
    found: list[object] = []
    report = Server._report

    def noted(server: Server, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        found.append(context)
        report(server, loop, context)

    monkeypatch.setattr(Server, "_report", noted)
    return found


def test_no_descriptor_is_left(
    generator: Generator,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    reports: list[object],
) -> None:
    """The server says so once, though it tries again, and then serves."""
    monkeypatch.setattr(module, "_QUIET", 3600.0)
    with serving(generator) as running:
        with without_descriptors(running) as clients:
            clients[0].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            until(lambda: len(reports) > module._ACCEPTS, "the server does not try again")
        said = [one for one in caplog.records if one.levelno >= logging.ERROR]
        assert len(said) == 1 and "no connection can be accepted" in said[0].message and not said[0].exc_info
        clients[0].settimeout(600)
        assert clients[0].recv(100).startswith(b"HTTP/1.1 200")
        for client in clients:
            client.close()


def test_the_server_waits_for_a_descriptor_without_being_busy(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, reports: list[object]
) -> None:
    """Between two rounds of tries, here an hour, it tries nothing."""
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 3600)
    with serving(generator) as running, without_descriptors(running) as clients:
        until(lambda: len(reports) >= module._ACCEPTS, "the server does not try")
        time.sleep(1)
        assert len(reports) == module._ACCEPTS
        for client in clients:
            client.close()
