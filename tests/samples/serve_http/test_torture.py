"""Without a free descriptor the server is nearly idle, and serves afterwards."""

import resource
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.samples.serve_http.serving import process
from tests.work import slowness

_SECONDS = 3
_ASKED = {"prompt": "the cat", "max_tokens": 2}


def test_no_descriptors_are_left(out: Path, tmp_path: Path) -> None:
    with process(out, tmp_path / "log") as running, ExitStack() as clients:
        assert running.process
        assert running.post(_ASKED).status_code == 200  # it has begun
        server = psutil.Process(running.process.pid)
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (server.num_fds() + 2, hard))
        for _ in range(60):
            clients.enter_context(socket.create_connection(running.address))
        before = sum(server.cpu_times()[:2])
        time.sleep(_SECONDS)
        used = sum(server.cpu_times()[:2]) - before
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
        clients.close()
        assert used < 0.2 * _SECONDS * slowness()
        assert running.post(_ASKED).status_code == 200
    assert "Exception in ASGI application" not in (tmp_path / "log").read_text()
