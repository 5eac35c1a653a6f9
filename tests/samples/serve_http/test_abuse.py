"""Clients that are slow, leave, read nothing, are too many, or send extreme values."""

import json
import logging
import os
import resource
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from patch_compile.runtime import Generator
from tests.samples.serve_http.raw import EXTREMES, HEAD, connected, request, to_the_end, until
from tests.samples.serve_http.serving import LONG, Running, alone, serving


@pytest.mark.parametrize("given", EXTREMES, ids=lambda given: given[:40])
def test_extreme_values(tiny: Running, given: str) -> None:
    """The answer is a result or a refusal in OpenAI's format, and comes soon."""
    defaults = "" if '"max_tokens"' in given else '"max_tokens": 8, '
    body = f'{{"prompt": "the cat sat", {defaults}{given}}}'
    headers = {"content-type": "application/json"}
    began = time.process_time()  # the server is a thread of this process
    answer = httpx.post(f"{tiny.url}/v1/completions", content=body.encode(), headers=headers, timeout=600)
    assert time.process_time() - began < 5
    if answer.status_code == 200:
        assert answer.json()["choices"][0]["finish_reason"] in ("length", "stop")
    else:
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_chat_with_many_wrong_messages(tiny: Running) -> None:
    """One of them is described: to describe all would take the server seconds, in which it answers nobody."""
    for messages in ([{}] * 300_000, [{f"k{i}": 1 for i in range(60_000)}]):
        began = time.process_time()
        answer = tiny.post({"messages": messages}, "chat/completions")
        assert time.process_time() - began < 2
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


def drip(client: socket.socket, seconds: float) -> None:
    """Send a byte from time to time, until the server closes the connection."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            client.sendall(b"x")
            time.sleep(0.05)
    except OSError:
        return
    raise AssertionError(f"the connection is still open after {seconds} s")


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
            drip(client, 10)
        assert answer in client.recv(1 << 16).partition(b"\r\n")[0]


def test_a_body_is_refused_before_it_is_read(generator: Generator) -> None:
    with serving(generator) as running, connected(running) as client:
        client.sendall(HEAD + b"Content-Length: 100000000\r\nExpect: 100-continue\r\n\r\n")
        got = until(client, b"body_too_large")
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
        assert until(client, b'"type":"invalid_request_error"').startswith(b"HTTP/1.1 400 ")


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


def test_no_descriptor_is_left(generator: Generator, caplog: pytest.LogCaptureFixture) -> None:
    """The server waits for one without being busy, says so once, and then serves."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(generator) as running:
        clients = [socket.socket() for _ in range(40)]
        taken: list[int] = []
        highest = max(int(file.name) for file in Path("/proc/self/fd").iterdir())
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass
            for client in clients:
                client.connect(running.address)
            clients[0].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            busy = time.process_time()
            time.sleep(2.5)
            busy = time.process_time() - busy
        finally:
            for one in taken:
                os.close(one)
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        said = [one for one in caplog.records if one.levelno >= logging.ERROR]
        assert len(said) == 1 and "no connection can be accepted" in said[0].message and not said[0].exc_info
        assert busy < 0.5
        clients[0].settimeout(10)
        assert clients[0].recv(100).startswith(b"HTTP/1.1 200")
        for client in clients:
            client.close()
