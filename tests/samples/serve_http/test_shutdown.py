"""Signals that stop the server, and the command that starts it."""

import json
import os
import signal
import socket
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from samples.serve_http import server as module
from tests.samples.serve_http.serving import LONG, SERVE, Running, in_background, process
from tests.work import until


def _refuses(running: Running) -> bool:
    """No connection, or the end of one that waited to be accepted while the server stopped listening."""
    try:
        running.get("health")
    except (httpx.NetworkError, httpx.RemoteProtocolError):
        return True
    return False


def test_sigterm_lets_requests_end(out: Path, tmp_path: Path) -> None:
    """Running and waiting requests are finished, new connections are refused, and the exit code is 0."""
    with process(out, tmp_path / "log", "--grace", "3600", "--max-batch", "1") as running:
        assert running.process
        stream, got = in_background(
            lambda: running.post({"prompt": "the cat", "max_tokens": 2000, "stream": True})
        )
        running.wait_for("running", 1)
        whole, also = in_background(lambda: running.post({"prompt": "dog", "max_tokens": 4}))
        running.wait_for("waiting", 1)
        running.process.send_signal(signal.SIGTERM)
        until(lambda: _refuses(running), "the server still listens")
        stream.join(600)
        whole.join(600)
        events = [json.loads(e[6:]) for e in got[0].text.split("\n\n") if e.startswith("data: {")]
        assert len(events) == 2000 and events[-1]["choices"][0]["finish_reason"] == "length"
        assert got[0].text.endswith("data: [DONE]\n\n")
        assert (also[0].status_code, also[0].json()["usage"]["completion_tokens"]) == (200, 4)
        assert running.process.wait(600) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("grace", "signals"), [(1, [signal.SIGTERM]), (3600, [signal.SIGTERM, signal.SIGINT])]
)
def test_the_end_of_grace_is_an_answer_too(
    out: Path, tmp_path: Path, grace: int, signals: list[signal.Signals]
) -> None:
    """A stream ends with an event, a waiting request with 503. Ctrl-C ends even an hour's grace."""
    options = "--grace", str(grace), "--max-batch", "1", "--max-new-tokens", str(LONG)
    with process(out, tmp_path / "log", *options) as running:
        assert running.process
        long = {"prompt": "the cat", "max_tokens": LONG}
        stream, got = in_background(lambda: running.post(long | {"stream": True}))
        running.wait_for("running", 1)
        waiting = [
            in_background(lambda body=body: running.post(body)) for body in (long, long | {"stream": True})
        ]
        running.wait_for("waiting", 2)
        for number in signals:
            running.process.send_signal(number)
            until(lambda: _refuses(running), "the server still listens")
        assert running.process.wait(600) == 0
        for thread in (stream, *(thread for thread, _ in waiting)):
            thread.join(600)
        events = got[0].text.split("\n\n")
        assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert 1 < len(events) < LONG and events[-2] == "data: [DONE]"
        assert [answer[0].status_code for _, answer in waiting] == [503, 503]
    assert "Exception in ASGI application" not in (tmp_path / "log").read_text()


def test_errors_of_the_command(out: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run(module.main, [str(out), "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1 and "can't listen on 127.0.0.1" in result.output
    result = run(module.main, [str(tmp_path / "none"), "--port", "0"])
    assert result.exit_code == 1 and "does not exist" in result.output
    result = run(module.main, [str(out), "--connections", "0"])
    assert result.exit_code == 2 and "--connections" in result.output


def test_serve_sh_is_executable() -> None:
    assert os.access(SERVE, os.X_OK)
