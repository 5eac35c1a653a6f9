"""Runs of `patch-compile` in which one file operation fails, and what they did."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.attacks.faults.shim import Fault, compiled

__all__ = ["Operation", "Run", "Runner", "runner"]

_REPOSITORY = Path(__file__).parents[3]


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
        return (
            f"operation {self.number} ({self.name} {self.path}{f', {self.size} bytes' if self.size else ''})"
        )


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

    cache: XDG_CACHE_HOME of the runs; it is watched too.
    """

    def __init__(self, folder: Path, library: Path, cache: Path) -> None:
        self._folder, self.cache, self.temporary = folder, cache, folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        env = os.environ | {
            "LD_PRELOAD": str(library),
            "XDG_CACHE_HOME": str(cache),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(_REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._errors = (folder / "server.txt").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=env,
            cwd=_REPOSITORY,
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=600)
        self._errors.close()

    def warm(self, *arguments: object, folder: Path) -> None:
        """Run undisturbed in the server itself, so that later runs find everything imported and traced."""
        answer = self._ask({"warm": True, "arguments": [*map(str, arguments)], "cwd": str(folder)})
        assert answer["code"] == 0, (self._folder / "server.txt").read_text()

    def run(self, *arguments: object, folder: Path, fault: Fault = Fault.NONE, at: int = 0) -> Run:
        """Run in `folder`, with a fault at operation number `at` below it or the cache."""
        stderr, log = self._folder / "stderr.txt", self._folder / "operations.txt"
        answer = self._ask(
            {
                "arguments": [*map(str, arguments)],
                "cwd": str(folder),
                "stdout": str(self._folder / "stdout.txt"),
                "stderr": str(stderr),
                "log": str(log),
                "folders": [str(folder), str(self.cache)],
                "fault": int(fault),
                "at": at,
            }
        )
        text = stderr.read_text(errors="replace")
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
            elif not path.startswith(str(self._folder)):
                outside.append(f"{name} {path}")
        written = {one.path for one in operations if one.name == "write"}
        missed = tuple(path for path in unseen if path not in written)
        return Run(code, stderr, tuple(operations), tuple(outside), hit, missed)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the server ended: {(self._folder / 'server.txt').read_text()[-2000:]}")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextlib.contextmanager
def runner(folder: Path, cache: Path) -> Iterator[Runner]:
    """A runner that is closed at the end. The shim is compiled into `build/torture`, once."""
    made = Runner(folder, compiled(_REPOSITORY / "build" / "torture"), cache)
    try:
        yield made
    finally:
        made.close()
