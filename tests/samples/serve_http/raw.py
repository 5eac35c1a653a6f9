"""Requests byte by byte, and extreme values in them."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.samples.serve_http.serving import Running

# What a client may write into a completion. All of it is JSON to Python's parser.
EXTREMES = [
    '"repetition_penalty": 1e-320',
    '"repetition_penalty": 1e308, "temperature": 1e-320',
    '"repetition_penalty": 5e-324, "top_p": 5e-324, "logprobs": 5',
    '"repetition_penalty": 0',
    '"temperature": 1e-300',
    '"temperature": 2, "top_k": 99999999999999999999999999',
    '"temperature": NaN',
    '"presence_penalty": 2, "frequency_penalty": -2, "temperature": 1e-310',
    f'"max_tokens": {10**400}',
    f'"max_tokens": {"9" * 5000}',
    f'"seed": {10**30}, "temperature": 1',
    f'"stop": {json.dumps(["the " * 250] * 4)}',
    '"stop": "\\ud800"',
    '"model": "\\ud800"',
    f'"tools": {"[" * 100_000}',
    f'"prompt": [{",".join(["3"] * 450_000)}]',
    f'"prompt": [{10**40}]',
    f'"messages": [{",".join(["{}"] * 300_000)}]',
    ", ".join(f'"k{i}": 1' for i in range(60_000)),
]

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def request(**body: Any) -> bytes:
    content = json.dumps({"prompt": "the cat", "max_tokens": 8} | body).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content


@contextmanager
def connected(running: Running) -> Iterator[socket.socket]:
    with socket.create_connection(running.address, timeout=600) as client:
        yield client


def to_the_end(client: socket.socket) -> bytes:
    got = b""
    while part := client.recv(1 << 16):
        got += part
    return got
