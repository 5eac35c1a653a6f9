"""Signals that stop the server, and the command that starts it."""

import asyncio
import copy
import json
import os
import signal
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from patch_compile.errors import PatchCompileError
from patch_compile.runtime import Generator
from samples.serve_http import server as module
from samples.serve_http.scheduler import Scheduler
from samples.serve_http.settings import Settings
from tests.samples.serve_http.serving import LONG, SERVE, in_background, process, serving
from tests.work import until


def test_sigterm_lets_requests_end(out: Path, tmp_path: Path) -> None:
    """Running and waiting requests are finished, new ones get 503, and the exit code is 0."""
    with process(out, tmp_path / "log", "--grace", "3600", "--max-batch", "1") as running:
        assert running.process
        stream, got = in_background(
            lambda: running.post({"prompt": "the cat", "max_tokens": 4000, "stream": True})
        )
        running.wait_for("running", 1)
        whole, also = in_background(lambda: running.post({"prompt": "dog", "max_tokens": 4}))
        running.wait_for("waiting", 1)
        assert running.get("health/ready").status_code == 200
        running.process.send_signal(signal.SIGTERM)
        running.wait_for("running", 1)
        late = running.post({"prompt": "dog", "max_tokens": 4})
        health = running.get("health")
        assert running.get("health/ready").status_code == 503
        assert running.get("health/live").status_code == 200
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        assert health.status_code == 503 and health.json()["live"] and not health.json()["ready"]
        stream.join(600)
        whole.join(600)
        events = [json.loads(e[6:]) for e in got[0].text.split("\n\n") if e.startswith("data: {")]
        assert len(events) == 4000 and events[-1]["choices"][0]["finish_reason"] == "length"
        assert got[0].text.endswith("data: [DONE]\n\n")
        assert (also[0].status_code, also[0].json()["usage"]["completion_tokens"]) == (200, 4)
        assert running.process.wait(600) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_sigterm_beyond_the_grace_is_an_answer_too(out: Path, tmp_path: Path) -> None:
    """A stream ends with an event, a waiting request with 503. A second signal ends even an hour's grace."""
    options = "--grace", "3600", "--max-batch", "1", "--max-new-tokens", str(LONG)
    with process(out, tmp_path / "log", *options) as running:
        assert running.process
        long = {"prompt": "the cat", "max_tokens": LONG}
        stream, got = in_background(lambda: running.post(long | {"stream": True}))
        running.wait_for("running", 1)
        waiting = [
            in_background(lambda body=body: running.post(body)) for body in (long, long | {"stream": True})
        ]
        running.wait_for("waiting", 2)
        running.process.send_signal(signal.SIGTERM)
        until(lambda: running.get("health/ready").status_code == 503, "the server does not drain")
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(600) == 0
        for thread in (stream, *(thread for thread, _ in waiting)):
            thread.join(600)
        events = got[0].text.split("\n\n")
        assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert 1 < len(events) < LONG and events[-2] == "data: [DONE]"
        assert [answer[0].status_code for _, answer in waiting] == [503, 503]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_grace_ends_by_itself(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serving` drains at its end, with half a second of grace."""
    waited: list[float] = []
    wait = Scheduler._until_answered

    async def noted(scheduler: Scheduler, seconds: float, *hurry: asyncio.Event) -> None:
        waited.append(seconds)
        await wait(scheduler, seconds, *hurry)

    monkeypatch.setattr(Scheduler, "_until_answered", noted)
    with serving(generator, grace=0.5, max_new_tokens=LONG) as running:
        body = {"prompt": "the cat", "max_tokens": LONG, "stream": True}
        stream, got = in_background(lambda: running.post(body))
        running.wait_for("running", 1)
    stream.join(600)
    assert waited[0] == 0.5 and got[0].text.count("data: ") < LONG
    assert "shutting_down" in got[0].text and got[0].text.endswith("data: [DONE]\n\n")


def test_errors_of_the_command(out: Path, tmp_path: Path, generator: Generator) -> None:
    run = CliRunner().invoke
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run(module.main, [str(out), "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1 and "can't listen on 127.0.0.1" in result.output
    result = run(module.main, [str(tmp_path / "none"), "--port", "0"])
    assert result.exit_code == 1 and "does not exist" in result.output
    result = run(module.main, [str(out), "--workers", "0"])
    assert result.exit_code == 2 and "--workers" in result.output
    one_at_a_time = copy.copy(generator)
    one_at_a_time.decoder = copy.copy(generator.decoder)
    one_at_a_time.decoder.concurrent = False  # type: ignore[misc]
    with pytest.raises(PatchCompileError, match="one batch at a time"):
        module._check_workers(Settings(model="tiny", workers=2), one_at_a_time)


def test_serve_sh_is_executable() -> None:
    assert os.access(SERVE, os.X_OK)
