"""Runs of `patch-compile` in which one file operation fails, and what they did.

Each run is a fork of one process, which has imported and traced everything and was started with the shim.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.attacks.faults.shim import Fault, arm, compiled
from tests.attacks.sandbox import forked, run_command

_REPOSITORY = Path(__file__).parents[3]
_KEPT = f"{_REPOSITORY}/build/traces/"  # graphs that the tests keep (tests/traces.py)
_PATIENCE = 600.0  # seconds of a run: a net for what hangs


@dataclass(frozen=True)
class Operation:
    """One file operation below the watched folders. number: from 1; operations that read have their own numbers.

    kind: "r" if it reads, "c" if it changes a file or folder, "g" if that needs room on the disk.
    """

    number: int
    name: str
    size: int
    path: str
    kind: str

    def __str__(self) -> str:
        size = f", {self.size} bytes" if self.size else ""
        return f"operation {self.number} ({self.name} {self.path}{size})"


@dataclass(frozen=True)
class Run:
    """A finished run. code: exit code, or minus the signal; outside: changes of files outside the watched folders;
    hit: the operation at which the fault happened; unseen: files written in a way that the shim can not count."""

    code: int
    stderr: str
    operations: tuple[Operation, ...]
    outside: tuple[str, ...]
    hit: Operation | None
    unseen: tuple[str, ...]


class Runner:
    """A server that runs `patch-compile` with the shim. folder: for its logs and for temporary files of the runs.

    cache: XDG_CACHE_HOME of the runs; it is watched too; variables: of their environment.
    """

    def __init__(self, folder: Path, cache: Path, **variables: str) -> None:
        self._folder, self.cache, self.temporary = folder, cache, folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        env = os.environ | {
            "LD_PRELOAD": str(compiled()),
            "XDG_CACHE_HOME": str(cache),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(_REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",  # outside of the watched folders
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),  # the tests' own torch has set it
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **variables,
        }
        self._log = folder / "server.txt"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with self._log.open("w") as errors:
            command = [sys.executable, "-m", "tests.attacks.faults.runs"]
            self._process = subprocess.Popen(command, stderr=errors, env=env, cwd=_REPOSITORY, **pipes)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=600)

    def warm(self, *arguments: object, folder: Path) -> None:
        """Run undisturbed in the server itself, so that later runs find everything imported and traced."""
        answer = self._ask({"arguments": [*map(str, arguments)], "cwd": str(folder)})
        assert answer["code"] == 0, self._log.read_text()

    def run(
        self,
        *arguments: object,
        folder: Path,
        fault: Fault = Fault.NONE,
        at: int = 0,
        change: str | None = None,
    ) -> Run:
        """Run in `folder`, with a fault at operation number `at` below it or the cache.

        change: a function that changes the program of this run, as MODULE:NAME.
        """
        log = self._folder / "operations.txt"
        answer = self._ask(
            {
                "arguments": [*map(str, arguments)],
                "cwd": str(folder),
                "streams": [str(self._folder / name) for name in ("stdout.txt", "stderr.txt")],
                "log": str(log),
                "folders": [str(folder), str(self.cache)],
                "fault": int(fault),
                "at": at,
                "change": change,
            }
        )
        text = (self._folder / "stderr.txt").read_text(errors="replace")
        if answer["hung"]:
            text += "\nhung: it does not end"
        return self._read(answer["code"], text, log.read_text(errors="replace").splitlines())

    def _read(self, code: int, stderr: str, lines: list[str]) -> Run:
        operations, outside, unseen, hit = [], [], [], None
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "unseen":
                unseen.append(rest)
                continue
            if kind == "fault":
                hit = hit or operations[-1]
                continue
            number, name, size, path = rest.split(" ", 3)
            if kind != "o":
                operations.append(Operation(int(number), name, int(size), path, kind))
            elif not path.startswith((str(self._folder), _KEPT)):
                outside.append(f"{name} {path}")
        written = {one.path for one in operations if one.name == "write"}
        missed = tuple(path for path in unseen if path not in written)
        return Run(code, stderr, tuple(operations), tuple(outside), hit, missed)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        print(json.dumps(request), file=self._process.stdin, flush=True)
        if answer := self._process.stdout.readline():
            return json.loads(answer)
        raise RuntimeError(f"the server ended: {self._log.read_text()[-2000:]}")


@contextlib.contextmanager
def runner(folder: Path, cache: Path, **variables: str) -> Iterator[Runner]:
    """A runner that is closed at the end."""
    made = Runner(folder, cache, **variables)
    try:
        yield made
    finally:
        made.close()


def _serve() -> None:
    """Answer requests, JSON lines on stdin, by JSON lines on stdout."""
    from masklearn.base.threads import settle_threads
    from patch_compile.onnx_export import trace
    from tests.traces import Traces, kept_traces

    settle_threads()
    # The graph of a model is traced once: it takes 5 s of CPU time and touches no file of OUT.
    trace.trace_model = Traces(trace.trace_model, kept_traces())
    answers, requests = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0), "r")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for line in requests:
        request = json.loads(line)
        if "fault" in request:
            out, err = map(Path, request["streams"])
            child = forked(lambda request=request: _attempt(request), out, err, 71)
            answer = _end_of(child)
        else:
            os.chdir(request["cwd"])
            answer = {"code": run_command(request["arguments"])}
        print(json.dumps(answer), file=answers, flush=True)


def _attempt(request: dict[str, Any]) -> int:
    os.chdir(request["cwd"])
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    if change := request["change"]:
        module, _, name = change.partition(":")
        getattr(importlib.import_module(module), name)()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    arm([Path(folder) for folder in request["folders"]], Fault(request["fault"]), request["at"], log)
    return run_command(request["arguments"])


def _end_of(child: int) -> dict[str, Any]:
    """Returns the exit code of a child, minus the signal that ended it, and whether it had to be killed."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return {"code": os.waitstatus_to_exitcode(status), "hung": False}
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return {"code": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "hung": True}


if __name__ == "__main__":
    _serve()
