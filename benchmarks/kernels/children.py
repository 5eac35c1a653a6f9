"""Measures rows in processes that may crash or hang, and goes on behind the row at which a process did.

A process that measures writes a row "trying" before each measurement, and the row itself after it. The process that
started it watches the file, kills it when no row comes for too long, says why the row that it tried has no figures, and
starts another. A row that failed is known, and is not tried again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rows import Row, Rows

DONE, CANT_START, TIME_IS_OVER, CONTEXT_IS_LOST = 0, 1, 3, 4  # exit codes of a process that measures
HANGS = "hangs"
_STOPS = (signal.SIGTERM, signal.SIGINT)
_LOOK = 0.2  # seconds between two looks at the file
_GRACE = 5.0  # seconds for a process to note its stop


class Patience(NamedTuple):
    """Seconds for which a process may write no row: until its first row is measured, and for each further row."""

    first: float = 120.0
    further: float = 60.0
    clock: Callable[[], float] = time.monotonic


def measure_rows(
    stage: str,
    found: Iterable[tuple[Row, Callable[[], Row]]],
    rows: Rows,
    sensors: Callable[[], Row],
    usable: Callable[[], bool],
    deadline: float,
) -> int:
    """Measure the rows that the file lacks, and return DONE, TIME_IS_OVER or CONTEXT_IS_LOST.

    found: keys, each with a function that measures its figures. sensors: returns the readings since its last call. usable:
    returns False when an error has ended all work of this process on the GPU. deadline: moment of `time.monotonic` after
    which no row is begun.
    """
    for key, measure in found:
        if rows.known(stage, key):
            continue
        if time.monotonic() > deadline:
            return TIME_IS_OVER
        rows.add("trying", {"stage": stage, "key": key}, {})
        sensors()
        try:
            rows.add(stage, key, measure() | {"sensors": sensors()})
            alive = usable()
        except Exception as error:
            alive = usable()
            _fail(rows, stage, key, f"{error}".strip() or type(error).__name__, fatal=not alive)
        except BaseException:
            rows.add("trying", {"stage": stage, "key": key}, {"stopped": True})
            raise
        if not alive:
            return CONTEXT_IS_LOST
    return DONE


def _fail(rows: Rows, stage: str, key: Row, why: str, *, fatal: bool) -> None:
    rows.add(stage, key, {"failed": why, "fatal": fatal})
    print(f"{stage} {key}: {why}", file=sys.stderr, flush=True)


def settle(rows: Rows, why: str, *, fatal: bool) -> None:
    """Write a row for each measurement that an ended process had begun. fatal: True if the measurement ended it."""
    for row in rows.unfinished():
        _fail(rows, row["key"]["stage"], row["key"]["key"], why, fatal=fatal)


def stop_when_asked() -> None:
    """Let SIGTERM and Ctrl-C end this process in order: the next run repeats the row that it is measuring."""

    def stop(number: int, _: object) -> NoReturn:
        for one in _STOPS:  # both the terminal or `timeout` and the parent process may ask
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    for one in _STOPS:
        signal.signal(one, stop)


def run_in_children(
    stage: str, command: Sequence[str], rows: Rows, patience: Patience, deadline: float
) -> int:
    """Start processes that measure until a process says DONE. Returns DONE, TIME_IS_OVER or CANT_START.

    command: measures the missing rows of the stage with `measure_rows`, and exits with the code that it returned. Each
    process that ends otherwise has given at least one row; the first process without a row ends the stage.
    """
    while time.monotonic() <= deadline:
        before = rows.count()
        code, why = _child(command, rows.path, patience)
        rows.reread()
        added = rows.count() - before
        settle(rows, why, fatal=True)
        if code in (DONE, TIME_IS_OVER):
            return code
        if not added:
            print(f"the stage {stage} is left out, its process can't start: {why}", file=sys.stderr)
            return CANT_START
    return TIME_IS_OVER


def _child(command: Sequence[str], path: Path, patience: Patience) -> tuple[int | None, str]:
    """Run one process. Returns its exit code, None where it was killed, and why it ended in words."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(command, stderr=said)
        try:
            code = _watched(process, path, patience)
        except BaseException:  # this process is stopped, and its child with it
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            raise
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        lines = said.read().strip().splitlines()
    for line in lines:
        print(line, file=sys.stderr, flush=True)
    if code is None:
        return None, HANGS
    if code < 0:
        return code, f"signal {-code}"
    return code, lines[-1] if lines else f"exit code {code}"


def _watched(process: subprocess.Popen[Any], path: Path, patience: Patience) -> int | None:
    began = size = path.stat().st_size
    since, limit = patience.clock(), patience.first
    while True:
        try:
            return process.wait(_LOOK)
        except subprocess.TimeoutExpired:
            now = patience.clock()
        if path.stat().st_size != size:
            size, since = path.stat().st_size, now
            if path.read_bytes()[began:].count(b"\n") > 1:  # tried, and measured
                limit = patience.further
        if now - since > limit:
            return None
