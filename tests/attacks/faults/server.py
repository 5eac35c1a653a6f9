"""Runs `patch-compile` many times without the seconds that importing torch takes: each run is a fork of this process.

Requests come as JSON lines on stdin, answers go as JSON lines to stdout. A request with "warm": true is run in this
process itself, so that what it imports and traces is there for later ones.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from masklearn.base.threads import settle_threads
from patch_compile.cli.app import main
from patch_compile.onnx_export import trace
from tests.attacks.faults.shim import Fault, arm
from tests.traces import Traces

_PATIENCE = 600.0  # seconds of a run: a net for what hangs


def serve() -> None:
    settle_threads()
    # The graph of a model is traced once: it takes 5 s of CPU time and touches no file of OUT.
    trace.trace_model = Traces(trace.trace_model)
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0), "r")
    _point(0, os.devnull, os.O_RDONLY)
    for line in requests:
        request = json.loads(line)
        if request.get("warm"):
            os.dup2(2, 1)
            os.chdir(request["cwd"])
            answer = {"code": _run(request["arguments"])}
        else:
            answer = _forked(request)
        print(json.dumps(answer), file=answers, flush=True)


def _forked(request: dict[str, Any]) -> dict[str, Any]:
    child = os.fork()
    if child == 0:
        code = 71
        try:
            code = _child(request)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code, hung = _wait(child)
    return {"code": code, "hung": hung}


def _child(request: dict[str, Any]) -> int:
    os.chdir(request["cwd"])
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        _point(descriptor, request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    folders = [Path(folder) for folder in request["folders"]]
    arm(folders, Fault(request["fault"]), request["at"], log)
    code = _run(request["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _run(arguments: list[str]) -> int:
    sys.argv = ["patch-compile", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("main ends by an exit code")


def _wait(child: int) -> tuple[int, bool]:
    """Returns the exit code of a child, minus the signal that ended it, and True if it had to be killed."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.005)
    os.kill(child, 9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), True


def _point(descriptor: int, path: str, flags: int) -> None:
    opened = os.open(path, flags, 0o644)
    os.dup2(opened, descriptor)
    os.close(opened)


if __name__ == "__main__":
    serve()
