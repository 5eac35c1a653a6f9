"""Every file operation of a build fails once in every way, or is the last of the process; then the build is resumed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from patch_compile.engine.backend import BackendName
from patch_compile.plugin.build import build_plugin
from tests.attacks.attack import BUILD, Attack
from tests.attacks.faults.runs import Operation, Run, Runner, runner
from tests.attacks.faults.scenario import SCENARIOS, Place, Scenario, differences, litter
from tests.attacks.faults.shim import Fault

_PLUGINS = BUILD / "plugin"  # compiled once, for the caches of all processes
# Number of attempts; the other scenarios have all.
_SAMPLED = {"TensorRT-RTX": 60, "magnitude over an earlier build": 150}
_SMALL = 10
_OF_A_CRASH = ("Traceback (most recent call last)", "Internal error", "hung:")


@dataclass(frozen=True)
class Attempt:
    """A fault at an operation of a scenario. problems: empty if it held."""

    scenario: str
    fault: Fault
    operation: Operation
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.scenario}, {self.fault.name} at {self.operation}: {'; '.join(self.problems)}"


@dataclass
class Sweep:
    """A scenario in a folder of its own, with the result of an undisturbed run to compare with.

    operations: of the undisturbed run.
    """

    scenario: Scenario
    runner: Runner
    folder: Path
    place: Place = field(init=False)
    reference: Path = field(init=False)
    operations: tuple[Operation, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.place, self.reference = Place(self.folder), self.folder / "reference"
        self._resumed: dict[str, tuple[str, ...]] = {}
        if self.scenario.replaces is not None:
            self._whole(self.scenario.earlier())
            self.place.keep_earlier()
        self.place.reset()
        self.runner.warm(*self.scenario.command(), folder=self.place.folder)
        self.place.reset()
        run = self._whole(self.scenario.command())
        self.operations = run.operations
        shutil.copytree(self.place.out, self.reference)
        # Left by libraries: torch's compiler and ONNX Runtime.
        self._temporary = {path.name for path in self.runner.temporary.iterdir()}

    def _whole(self, command: Sequence[str]) -> Run:
        run = self.runner.run(*command, folder=self.place.folder, fault=Fault.EIO_READ)
        assert run.code == 0, run.stderr
        assert not run.unseen, f"the shim can't count: {run.unseen}"
        return run

    def attempt(self, fault: Fault, number: int) -> Attempt | None:
        """Run with the fault at an operation, and resume. Returns None if the operation cannot have the fault."""
        self._reset()
        run = self._run(fault, number)
        if run.hit is None or (run.hit.number != number):
            return None
        problems = [*self._of_run(run, fault), *self._of_resuming()]
        return Attempt(self.scenario.name, fault, run.hit, tuple(problems))

    def _reset(self) -> None:
        self.place.reset()
        for path in self.runner.temporary.iterdir():
            if path.name not in self._temporary:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _run(self, fault: Fault, number: int, *flags: str) -> Run:
        return self.runner.run(
            *self.scenario.command(*flags), folder=self.place.folder, fault=fault, at=number
        )

    def _of_run(self, run: Run, fault: Fault) -> Iterator[str]:
        assert run.hit is not None
        yield from self._of_ours_alone(run)
        if run.code not in fault.exit_codes:
            yield f"exit code {run.code}: {_first_line(run.stderr)}"
        if run.code < 0:
            return
        yield from of_words(run)
        if run.code == 0:
            yield from self._of_out()
        elif run.hit.name not in ("unlink", "rmdir"):
            yield from (f"{name} is left" for name in litter(self.place.folder))
        left = {path.name for path in self.runner.temporary.iterdir()} - self._temporary
        yield from (f"the temporary {name} is left" for name in sorted(left))

    def _of_resuming(self) -> tuple[str, ...]:
        """Runs with --resume. From an equal state it was done before, and had this result."""
        state = self.place.state()
        if state not in self._resumed:
            run = self._run(Fault.NONE, 0, "--resume")
            self._resumed[state] = tuple(f"resumed: {problem}" for problem in self._of_resumed(run))
        return self._resumed[state]

    def _of_resumed(self, run: Run) -> Iterator[str]:
        yield from self._of_ours_alone(run)
        yield from of_words(run)
        published = run.code == 1 and f"{self.place.out} exists" in run.stderr
        if run.code and not published:
            yield f"exit code {run.code}: {_first_line(run.stderr)}"
        else:
            yield from self._of_out()

    def _of_out(self) -> Iterator[str]:
        yield from differences(self.place.out, self.reference, engine=self.scenario.engine)
        if extra := self.place.beside() - {"out"}:
            yield f"{', '.join(sorted(extra))} is left beside out"

    def _of_ours_alone(self, run: Run) -> Iterator[str]:
        yield from self.place.harmed()
        yield from (f"outside: {line}" for line in run.outside)
        ours = (self.place.out, self.place.out.with_name("out.partial"), self.runner.cache)
        for one in run.operations:
            path = Path(one.path)
            if one.kind == "r" or one.name == "fsync" or path.name.startswith(".out.replaced-"):
                continue
            aside = any(part.startswith(".out.replaced-") for part in path.parts)
            if not aside and not any(path.is_relative_to(folder) for folder in ours):
                yield f"outside OUT: {one}"


def of_words(run: Run) -> Iterator[str]:
    """A user reads what is wrong, why, and what to do, and no traceback."""
    yield from (
        f"stderr has {mark!r}: {_first_line(run.stderr)}" for mark in _OF_A_CRASH if mark in run.stderr
    )
    if run.code == 130 and "Interrupted." not in run.stderr:
        yield f"interrupted without a word: {_first_line(run.stderr)}"
    if run.code == 1 and not ("error: " in run.stderr and "fix: " in run.stderr):
        yield f"exit code 1 without words: {_first_line(run.stderr)}"


def _first_line(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")] or stderr.splitlines()[-1:]
    return lines[0] if lines else "nothing on stderr"


def _wanted(sweep: Sweep, count: int | None, seed: int) -> Sequence[tuple[Fault, int]]:
    """Returns all faults at all operations, or `count` of them, drawn at random and spread over the run."""
    changes = [one for one in sweep.operations if one.kind != "r"]
    able = dict.fromkeys((Fault.KILL, Fault.EIO, Fault.POWER, Fault.INTERRUPT), changes)
    able |= dict.fromkeys(
        (Fault.TERMINATE, Fault.HANG_UP), changes[::10]
    )  # they end the process as a kill does
    able[Fault.FULL] = [one for one in changes if one.kind == "g"]
    able[Fault.TORN] = [one for one in changes if one.name == "write"]
    able[Fault.EIO_READ] = [one for one in sweep.operations if one.kind == "r"]
    every = sorted((one.number / len(of), fault, one.number) for fault, of in able.items() for one in of)
    if count is not None:
        drawn = random.Random(seed)
        step = len(every) / count
        every = [every[int((i + drawn.random()) * step)] for i in range(count)]
    return [(fault, number) for _, fault, number in every]


def attack(
    *, small: bool = False, only: Sequence[str] = (), count: int | None = None, seed: int = 0
) -> list[Attack]:
    """Returns the results by scenario and fault. small: some ten attempts of the fastest scenario.

    only: names of scenarios; count: of attempts of each, drawn with this seed.
    """
    if small:
        name = next(iter(SCENARIOS))
        return _by_fault(name, _share(name, _SMALL, seed, 0, 1))
    found = []
    for name in only or SCENARIOS:
        if SCENARIOS[name].engine:
            build_plugin(BackendName.TENSORRT_RTX, cache_dir=_PLUGINS)
        most = count or (None if only else _SAMPLED.get(name))
        processes = os.cpu_count() or 1
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            shares = [pool.submit(_share, name, most, seed, i, processes) for i in range(processes)]
            found += _by_fault(name, [attempt for share in shares for attempt in share.result()])
    return found


def _by_fault(name: str, tried: Sequence[Attempt]) -> list[Attack]:
    by_fault = defaultdict(list)
    for attempt in tried:
        by_fault[attempt.fault].append(attempt)
    return [
        Attack(f"{fault.words} ({name})", len(of), tuple(str(one) for one in of if one.problems))
        for fault, of in sorted(by_fault.items())
    ]


def _share(name: str, count: int | None, seed: int, process: int, processes: int) -> list[Attempt]:
    """Returns the attempts of one process, in a folder of its own, without impossible attempts."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        here = Path(folder).resolve()
        if SCENARIOS[name].engine:
            shutil.copytree(_PLUGINS, here / "cache/patch-compile/plugin")
        with runner(here / "runner", here / "cache") as made:
            sweep = Sweep(SCENARIOS[name], made, here / "place")
            wanted = _wanted(sweep, count, seed)[process::processes]
            tried = [sweep.attempt(fault, number) for fault, number in wanted]
            return [attempt for attempt in tried if attempt]
