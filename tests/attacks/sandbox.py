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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import psutil

from tests.attacks.hostile.case import Case, Sound
from tests.work import slowness

MEMORY = 1_500 << 20  # bytes of address space beyond what the imports take
SECONDS = 20  # of the processor, times the slowness of the machine; and of a wait for nothing
_LOOK = 0.5  # seconds between two looks at a command that may wait for ever
_BUSY = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
_ESCAPED, _NOT_MADE = 99, 98  # exit codes of ours
_NOISE = re.compile(r"Traceback \(most recent call last\)|\b\w{1,40}Warning: |^\[W\d+ ", re.MULTILINE)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_OUTPUTS = ("out", ".out", "masks-out", ".masks-out")


@dataclass(frozen=True)
class Verdict:
    """Result of one command. faults: rules that it broke, empty if it held."""

    kind: str
    name: str
    command: str
    code: int
    seconds: float
    faults: tuple[str, ...]
    output: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name} | {self.command} | {self.code}, {self.seconds} s | {'; '.join(self.faults)}"


@dataclass
class Running:
    """A command that was started. `poll` gives its verdict once it has ended."""

    case: Case
    command: str
    box: Path
    pid: int
    busy: float  # time at which it was last seen to be busy
    looked: float = 0.0
    used: float = 0.0

    def poll(self) -> Verdict | None:
        """Returns the verdict, or None while the command runs. It kills a command that waits for ever."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        late = not pid and self._waits_for_ever()
        if not pid and not late:
            return None
        if not pid:
            os.killpg(self.pid, signal.SIGKILL)
            _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        streams = ((self.box / name).read_text("utf-8", "backslashreplace") for name in ("stdout", "stderr"))
        output = "".join(streams)
        faults = (*self._of_end(code, output, late=late), *_of_output(output), *self._of_files())
        seconds = round(usage.ru_utime + usage.ru_stime, 2)
        shutil.rmtree(self.box, ignore_errors=True)
        return Verdict(self.case.kind, self.case.name, self.command, code, seconds, faults, output[-3000:])

    def _waits_for_ever(self) -> bool:
        """Returns True if none of the command's processes has computed, or waited for processor or disk, for long.

        A command that computes for ever is ended by the limit on its use of the processor, however busy the machine is.
        """
        now = time.monotonic()
        if now < self.looked + _LOOK:
            return False
        self.looked = now
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            all_of = [process, *process.children(recursive=True)]
            used = sum(sum(one.cpu_times()) for one in all_of)
            if used != self.used or any(one.status() in _BUSY for one in all_of):
                self.busy, self.used = now, used
        return now > self.busy + SECONDS

    def _of_end(self, code: int, output: str, *, late: bool) -> Iterator[str]:
        if code == _NOT_MADE:
            yield "could not be made"
        elif late:
            yield "waits for ever"
        elif code in (-signal.SIGXCPU, -signal.SIGKILL):
            yield f"takes more than {SECONDS} s of the machine of the limits"
        elif code < 0:
            yield f"dies of {signal.Signals(-code).name}"
        elif code not in self.case.codes:
            yield f"exits with {code}"
        elif code in (1, 2) and not any(name in output for name in self.case.named):
            yield f"complains without naming {self.case.named[0]}"

    def _of_files(self) -> Iterator[str]:
        if (self.box / "canary").exists():
            yield "runs code of the input"
        file, after = self.box / "before", _listing(self.box, self.case.writes)
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


def start(case: Case, command: str, sound: Sound, box: Path) -> Running:
    """Start a process that makes the input in `box` and runs the command on it."""
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
            return run_command(shlex.split(command.replace("SOUND", str(sound.root))))
        except BaseException:
            traceback.print_exc()
            return _ESCAPED

    pid = forked(run, box / "stdout", box / "stderr", _NOT_MADE)
    return Running(case, command, box, pid, time.monotonic())


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
