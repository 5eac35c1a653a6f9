"""Runs one command on one hostile input in a process of its own with limits, and judges what it did.

The process is a fork of this process, in which everything that commands import is imported already: a command takes a
fraction of a second. This process must not have started any thread.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import shlex
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import psutil

from tests.work import slowness

MEMORY = 1_500 << 20  # bytes of address space beyond what the imports take
SECONDS = 20  # of the processor, times the slowness of the machine; and of a wait for nothing
_LOOK = 0.5  # seconds between two looks at a command that may wait for ever
_BUSY = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
_CODES = (0, 1, 2, 3, 5)  # ok, user or machine, usage, accuracy, not checked
_ESCAPED, _NOT_MADE = 99, 98  # exit codes of ours
_NOISE = re.compile(r"Traceback \(most recent call last\)|\b\w{1,40}Warning: |^\[W\d+ ", re.MULTILINE)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_OUTPUTS = ("out", ".out", "masks-out", ".masks-out")


@dataclass(frozen=True)
class Case:
    """A hostile input, and a command that reads it.

    make: writes the input to the current folder of the command, from the folder of sound files; named: texts of which each
    complaint must contain one; env: additional environment variables; writes: beginnings of the paths that the command may
    write besides `out`.
    """

    name: str
    make: Callable[[Path, Path], object]
    command: str
    named: tuple[str, ...] = ("stranger",)
    env: Mapping[str, str] = field(default_factory=dict)
    writes: tuple[str, ...] = ()
    codes: tuple[int, ...] = _CODES


def judged(case: Case, sound: Path, box: Path) -> list[str]:
    """Make the input in `box` and run the command on it. Returns the rules that it broke; the last is its output."""
    shutil.rmtree(box, ignore_errors=True)
    for name in ("case", "home", "tmp"):
        (box / name).mkdir(parents=True)
    (box / "outside").write_text("This is not the stranger's.")
    slowness()  # measured before the fork, once

    def run() -> int:
        os.setsid()
        os.chdir(box / "case")
        case.make(sound, box / "case")
        (box / "before").write_text(json.dumps(_listing(box, case.writes)))
        _limit()
        os.environ.pop("XDG_CACHE_HOME", None)
        os.environ |= {
            "HOME": f"{box}/home",
            "TMPDIR": f"{box}/tmp",
            "HOSTILE_CANARY": f"{box}/canary",
        } | case.env
        try:
            return run_command(shlex.split(case.command.replace("SOUND", str(sound))))
        except BaseException:
            traceback.print_exc()
            return _ESCAPED

    code = _end_of(forked(run, box / "stdout", box / "stderr", _NOT_MADE))
    streams = ((box / name).read_text("utf-8", "backslashreplace") for name in ("stdout", "stderr"))
    output = "".join(streams)
    faults = [*_of_end(case, code, output), *_of_output(output), *_of_files(case, box)]
    shutil.rmtree(box, ignore_errors=True)
    return [*faults, repr(output[-600:])] if faults else []


def _end_of(pid: int) -> int | None:
    """Returns the exit code of a command, None if it waited for ever and was killed.

    It waits if none of its processes has computed, or waited for processor or disk, for long. A command that computes for
    ever is ended by the limit on its use of the processor, however busy the machine is.
    """
    looked = busy = time.monotonic()
    before = 0.0
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
        now = time.monotonic()
        if now < looked + _LOOK:
            continue
        looked = now
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            all_of = [process, *process.children(recursive=True)]
            used = sum(sum(one.cpu_times()) for one in all_of)
            if used != before or any(one.status() in _BUSY for one in all_of):
                busy, before = now, used
        if now > busy + SECONDS:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None


def _of_end(case: Case, code: int | None, output: str) -> Iterator[str]:
    if code is None:
        yield "waits for ever"
    elif code == _NOT_MADE:
        yield "could not be made"
    elif code in (-signal.SIGXCPU, -signal.SIGKILL):
        yield f"takes more than {SECONDS} s of the machine of the limits"
    elif code < 0:
        yield f"dies of {signal.Signals(-code).name}"
    elif code not in case.codes:
        yield f"exits with {code}"
    elif code in (1, 2) and not any(name in output for name in case.named):
        yield f"complains without naming {case.named[0]}"


def _of_files(case: Case, box: Path) -> Iterator[str]:
    if (box / "canary").exists():
        yield "runs code of the input"
    file, after = box / "before", _listing(box, case.writes)
    before = json.loads(file.read_text()) if file.exists() else after
    yield from (f"writes {name}" for name in sorted(after) if before.get(name) != after[name])
    yield from (f"removes {name}" for name in sorted(before.keys() - after.keys()))


def _of_output(output: str) -> Iterator[str]:
    if "There is not enough memory" in output:
        yield f"needs more than {MEMORY >> 20} MiB"
    if noise := _NOISE.search(output):
        yield f"prints {noise.group().strip()!r}"
    if control := _CONTROLS.search(output):
        yield f"prints the control character {control.group()!r}"


def forked(run: Callable[[], int], stdout: Path, stderr: Path, failed: int) -> int:
    """Returns the id of a new process, which ends with the exit code of `run`, or with `failed` if that raises.

    Its stdin is closed, and it writes stdout and stderr to files.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = failed
    try:
        faulthandler.disable()  # as it is in the command; pytest enables it
        new = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        for number, (path, flags) in enumerate(((os.devnull, os.O_RDONLY), (stdout, new), (stderr, new))):
            os.dup2(os.open(path, flags, 0o600), number)
        sys.stdin = open(0)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def run_command(arguments: Sequence[str]) -> int:
    """Run `patch-compile` in this process. Returns its exit code."""
    from patch_compile.cli.app import main

    sys.argv = ["patch-compile", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("main ends by an exit code")


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    used = int(time.process_time()) + 1  # to make the input
    most = used + ceil(SECONDS * slowness())
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))


def _listing(box: Path, writes: tuple[str, ...]) -> dict[str, str]:
    """Returns kind, size and time of everything in the box that no command may change, by its path in the box."""
    found = {}
    free = tuple(f"case/{name}" for name in (*_OUTPUTS, *writes))
    for folder, folders, files in os.walk(box):
        place = Path(folder)
        if place == box:
            folders[:] = [name for name in folders if name not in ("home", "tmp")]
            files = [name for name in files if name not in ("stdout", "stderr", "canary", "before")]
        for name in (*files, *folders):
            state = (place / name).lstat()
            size = "" if stat.S_ISDIR(state.st_mode) else f" {state.st_size} {state.st_mtime_ns}"
            where = str((place / name).relative_to(box))
            if not where.startswith(free):
                found[where] = f"{state.st_mode:o}{size}"
    return found
