"""Attacks on the HTTP sample, in a process of its own and over loopback."""

from __future__ import annotations

import asyncio
import random
import resource
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from tests.attacks.attack import Attack
from tests.samples.serve_http.raw import EXTREMES, HEAD, connected, request, to_the_end
from tests.samples.serve_http.serving import Running, process
from tests.samples.serve_http.tiny import write_build
from tests.work import slowness

_JSON = {"content-type": "application/json"}


def attack(*, small: bool = False) -> list[Attack]:
    """Build a tiny model and attack its server."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        return attack_server(write_build(Path(folder)), Path(folder), small=small)


def attack_server(out: Path, folder: Path, *, small: bool) -> list[Attack]:
    """Attack a server of OUT. folder: for its log."""
    with process(out, folder / "log") as running:
        attacks = [
            _extremes(running, 20 if small else 600),
            _at_once(running, 90 if small else 200),
            _beside_abuse(running, 4 if small else 40),
            _descriptors(running, 3 if small else 8),
        ]
    said = (folder / "log").read_text()
    broken = [line for line in said.splitlines() if "Exception in ASGI application" in line]
    return [*attacks, Attack("the server's log shows no failure of a request", 1, broken[:1])]


def _extremes(running: Running, tries: int) -> Attack:
    """Combine two extreme settings in a request; each try is made again by its number."""
    broken = []
    with httpx.Client(base_url=running.url, timeout=600) as client:
        for number in range(tries):
            chosen = random.Random(number).sample(EXTREMES, 2)
            given = ", ".join(one for one in chosen if len(one) < 200_000)
            body = f'{{"prompt": "the cat", {given}}}'.encode(errors="replace")
            before = _computed(running)
            answer = client.post("/v1/completions", content=body, headers=_JSON)
            took = _computed(running) - before
            if answer.status_code >= 500 or took > 10 * slowness():
                broken.append(
                    f"try {number}: status {answer.status_code} after {took:.1f} s of the processor"
                )
            elif answer.status_code != 200 and set(answer.json()) != {"error"}:
                broken.append(f"try {number}: {answer.text[:80]}")
    return Attack("extreme values in a request are answered", tries, broken)


async def _ask(client: httpx.AsyncClient, **body: object) -> httpx.Response:
    return await client.post("/v1/completions", json={"prompt": "the cat", "max_tokens": 8} | body)


def _at_once(running: Running, number: int) -> Attack:
    """Each of many requests at once is answered, or told when to come again."""

    async def all_at_once() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=running.url, timeout=600, limits=limits) as client:
            return await asyncio.gather(*(_ask(client, max_tokens=64) for _ in range(number)))

    answers = asyncio.run(all_at_once())
    statuses = Counter(answer.status_code for answer in answers)
    broken = [
        f"status {answer.status_code}"
        for answer in answers
        if answer.status_code != 200 and not (answer.status_code == 429 and "retry-after" in answer.headers)
    ]
    told = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    return Attack(f"{number} requests at once ({told})", number, broken)


def _beside_abuse(running: Running, each: int) -> Attack:
    """Ordinary requests are answered while other clients are slow, read nothing or send no HTTP."""
    long = request(max_tokens=500, stream=True, logprobs=5)
    openings = [
        b"POST /v1/completions HTTP/1.1\r\nX: ",
        HEAD + b"Content-Length: 9\r\n\r\n{",
        long,
        b"\x16\x03\x01" * 99,
    ]
    abusers = []
    for opening in openings * each:
        abuser = socket.socket()
        abuser.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        abuser.connect(running.address)
        abuser.sendall(opening)
        abusers.append(abuser)
    broken = []
    for number in range(5 * each):
        with connected(running) as client:
            client.sendall(request().replace(b"Host: x", b"Host: x\r\nConnection: close"))
            got = to_the_end(client)
        if b" 200 OK" not in got and b" 429 " not in got:
            broken.append(f"request {number}: {got[:60]!r}")
    for abuser in abusers:
        abuser.close()
    return Attack(f"requests beside {len(abusers)} abusers", 5 * each, broken)


def _descriptors(running: Running, seconds: int) -> Attack:
    """Without a free descriptor the server is nearly idle, and serves afterwards."""
    server = psutil.Process(_pid(running))
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    broken = []
    clients = []
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (server.num_fds() + 2, before[1]))
    try:
        clients = [socket.create_connection(running.address) for _ in range(60)]
        used = _computed(running)
        time.sleep(seconds)
        share = (_computed(running) - used) / seconds
        if share > 0.2 * slowness():
            broken.append(f"{share:.0%} of a core")
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
        for client in clients:
            client.close()
    if running.post({"prompt": "the cat", "max_tokens": 2}).status_code != 200:
        broken.append("no answer afterwards")
    return Attack(f"no descriptors for {seconds} s: {share:.1%} of a core", 2, broken)


def _computed(running: Running) -> float:
    """Returns the seconds of the processor that the server has used."""
    return sum(psutil.Process(_pid(running)).cpu_times()[:2])


def _pid(running: Running) -> int:
    assert running.process
    return running.process.pid
