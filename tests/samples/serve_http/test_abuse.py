"""Clients that are slow, read nothing, are too many, or send extreme values."""

import json
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import FrameType

import httpx
import psutil
import pytest

from patch_compile.runtime import Generator
from tests.samples.serve_http.raw import EXTREMES, HEAD, connected, read_until, request, to_the_end
from tests.samples.serve_http.serving import Running, serving
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
        with ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(running.post, [{"prompt": "the " * 60}] * 6))
        assert [answer.status_code for answer in answers] == [200] * 6


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
        (b"", b""),
        (b"POST /v1/completions HTTP/1.1\r\nX-Slow: ", b""),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b" 408 "),
        (HEAD + b"Content-Length: 100000000\r\n\r\n", b" 413 "),  # what follows is read, for a while
        (request() + b"GET /health HTTP/1.1\r\nX-Slow: ", b" 200 "),
    ],
    ids=["silent", "headers", "body", "refused body", "second request"],
)
def test_slow_requests_lose_their_connection(generator: Generator, sent: bytes, answer: bytes) -> None:
    """Sending each byte in time does not help: the limit is on the whole request."""
    with serving(generator, client_timeout=1) as running, connected(running) as client:
        client.sendall(sent)
        got = client.recv(1 << 16) if answer else b""
        if sent:
            drip(client)
        else:
            assert not to_the_end(client)
        assert answer in got.partition(b"\r\n")[0]


def test_a_body_is_refused_before_it_is_read(generator: Generator) -> None:
    with serving(generator) as running, connected(running) as client:
        client.sendall(HEAD + b"Content-Length: 100000000\r\nExpect: 100-continue\r\n\r\n")
        got = read_until(client, b"body_too_large")
        assert got.startswith(b"HTTP/1.1 413 ")


def _open(client: tuple[str, int]) -> bool:
    """True if the server, which is this process, has a connection to this client."""
    return any(one.raddr == client for one in psutil.Process().net_connections("tcp"))


def test_silent_readers_lose_their_connection(generator: Generator) -> None:
    """The connection is aborted before all of a stream is sent, and the batch has its places again."""
    model = "tiny" * 1000  # every chunk contains the name, 10 MB in all
    with serving(generator, client_timeout=1, model=model) as running, connected(running) as client:
        client.sendall(request(prompt=["the cat"] * 16, max_tokens=160, stream=True))
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        name = client.getsockname()
        until(lambda: not _open(name), "the connection is still open")
        with suppress(ConnectionResetError):
            assert not to_the_end(client).endswith(b"\r\n0\r\n\r\n")  # the end of a whole stream
        running.wait_for("running", 0)


def test_a_flood_of_headers(generator: Generator) -> None:
    with serving(generator) as running, connected(running) as client:
        client.sendall(HEAD + b"".join(b"X-%d: flood\r\n" % i for i in range(5000)))
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


CLOSE = HEAD + b"Connection: close\r\n"
CHUNK = b"100000\r\n" + b" " * 0x100000 + b"\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (CLOSE + b"Content-Length: 20000000\r\n\r\n" + b" " * 20_000_000, b" 413 "),
        (CLOSE + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 20 + b"0\r\n\r\n", b" 413 "),
        (HEAD + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n", b" 400 "),
        (HEAD + b"X: " + b"a" * 20_000_000 + b"\r\n\r\n", b" 400 "),
    ],
    ids=["body", "chunks", "header", "large header"],
)
def test_who_sends_too_much_gets_a_status(generator: Generator, sent: bytes, answer: bytes) -> None:
    """The server reads on before it closes: unread bytes would reset the connection, and the answer with it."""
    with serving(generator) as running:
        for _ in range(3):
            with connected(running) as client:
                client.sendall(sent)
                assert answer in to_the_end(client).partition(b"\r\n")[0]


def test_too_many_connections(generator: Generator) -> None:
    with serving(generator, connections=3) as running:
        idle = [socket.create_connection(running.address) for _ in range(3)]
        until(lambda: running.get("health").status_code == 503, "a fourth connection is served")
        for client in idle:
            client.close()
        until(lambda: running.get("health").status_code == 200, "the places of the others are not free")
        assert running.post({"prompt": "the cat", "max_tokens": 1}).status_code == 200
