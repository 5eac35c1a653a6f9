"""Tries faults at the operations of a scenario, one run each, and resumes after each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.attacks.faults.runs import Operation, Run, Runner
from tests.attacks.faults.scenario import Place, Scenario, differences, litter
from tests.attacks.faults.shim import Fault

__all__ = ["Attempt", "Sweep", "attempts"]

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
        """Run with the fault at an operation, and resume. Returns None if the operation is none that can have the fault."""
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
        yield from _of_words(run)
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
        yield from _of_words(run)
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


def attempts(sweep: Sweep, wanted: Sequence[tuple[Fault, int]]) -> Iterator[Attempt]:
    """Yield the attempts of the wanted faults and operations, without those that are impossible."""
    for fault, number in wanted:
        if (attempt := sweep.attempt(fault, number)) is not None:
            yield attempt


def _of_words(run: Run) -> Iterator[str]:
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
