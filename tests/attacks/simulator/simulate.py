"""Draws sequences of commands, faults, changed inputs, links and files of the user, and checks after each command:

- Nothing outside OUT has changed.
- No file of the user has vanished or changed.
- OUT is what the same command makes in an empty place. After a refusal or a fault, the earlier OUT is whole.
- No code of the surroundings has run, and the command has ended in words.

A sequence that breaks is shrunk: steps are dropped for as long as it still breaks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from patch_compile.artifacts.folder import faulty_files
from patch_compile.artifacts.layout import MANIFEST, PARTIAL, STATE
from patch_compile.artifacts.lock import LOCK
from patch_compile.artifacts.manifest import Manifest
from patch_compile.artifacts.stage_files import remove
from tests.attacks.attack import Attack
from tests.attacks.faults.runs import Run, Runner, runner
from tests.attacks.faults.scenario import differences, snapshot
from tests.attacks.faults.sweep import of_words
from tests.attacks.simulator.home import PUBLISHED, Entry, Home
from tests.attacks.simulator.steps import ADDING, BUILDERS, READING, Command, Drawer
from tests.cli.poison import MARKS, marked

_EPISODE = 20  # steps, after which all begins anew
_KEPT = 200  # results in empty places that stay on the disk
_CODES = (0, 1, 2, 5)  # 5: `verify` found nothing to check
_RANDOM = re.compile("[0-9a-f]{16}")
Entries = dict[str, Entry]


class Simulator:
    """Runs steps in a home below the folder of `serving`, which one simulator has at a time.

    change: of the program, as `Runner.run` takes it; None for the program as it is.
    """

    def __init__(self, folder: Path, made: Runner, change: str | None = None) -> None:
        self._runner, self._folder, self._change = made, folder / "simulated", change
        self._marks = folder / MARKS
        shutil.rmtree(self._folder, ignore_errors=True)
        self.home = Home(self._folder)
        self._alone: OrderedDict[str, tuple[int, Path]] = OrderedDict()
        self._known: dict[str, str] = {}  # the key of the result that each OUT has
        for line, name in zip(list(BUILDERS)[:2], ("masks", "others"), strict=True):
            done = self._run(Command.parse(_drawn(line).replace(" out ", f" {name} ")))
            assert done.code == 0, done.stderr
        self.home.finish(self.home.work / "masks", self.home.work / "others")
        self.written = self._trace()

    def episode(self, seed: int, count: int = _EPISODE) -> list[str]:
        """Returns the steps of a seed."""
        return Drawer(self.written, self.home.inputs, random.Random(seed)).steps(count)

    def broken(self, steps: Sequence[str]) -> tuple[int, list[str]] | None:
        """Do the steps from the beginning. Returns the number of those that were done and what broke, None if all held."""
        self.home.reset()
        self._known.clear()
        for number, line in enumerate(steps, 1):
            if faults := self._step(line):
                return number, faults
        return None

    def shrunk(self, steps: Sequence[str]) -> tuple[list[str], list[str]]:
        """Returns the fewest of the steps that still break so, found by dropping ever smaller parts, and what breaks."""
        found = self.broken(steps)
        assert found is not None, f"it does not break again: {steps}"
        steps, faults = list(steps[: found[0]]), found[1]
        size = len(steps) // 2
        while size:
            start, dropped = 0, False
            while start < len(steps):
                fewer = steps[:start] + steps[start + size :]
                found = self.broken(fewer)
                if found and _kinds(found[1]) & _kinds(faults):
                    steps, faults, dropped = fewer[: found[0]], found[1], True
                else:
                    start += size
            size = size if dropped and size == 1 else size // 2
        return steps, faults

    def _trace(self) -> list[str]:
        """Run every command once. Returns the paths that they write, but no random names."""
        self.home.reset()
        found, work = set[str](), self.home.work
        for line in (*BUILDERS, *ADDING, *READING):
            run = self._run(Command.parse(f"{_drawn(line)}{' --force' * (' -o ' in line)}"))
            assert run.code == 0 or line in ADDING, run.stderr
            found |= {one.path.removeprefix(f"{work}/") for one in run.operations if one.kind in "cg"}
            found |= {str(path.relative_to(work)) for path in (work / "out").rglob("*")}
        self._marks.unlink(missing_ok=True)
        return sorted(
            one
            for one in found
            if not _RANDOM.search(one) and one.startswith(("out", "other")) and one != "out"
        )

    def _run(self, command: Command) -> Run:
        words = (*command.words, *command.flags)
        return self._runner.run(
            *words, folder=self.home.work, fault=command.fault, at=command.at, change=self._change
        )

    def _step(self, line: str) -> list[str]:
        command = Command.parse(line)
        if command is None:
            self.home.act(*line.split())
            for out in [one for one in self._known if line.startswith(("link", "damage", "clear"))]:
                del self._known[out]
            return []
        before = self.home.entries()
        run = self._run(command)
        after = self.home.entries()
        return [
            *self._of_end(command, run),
            *self._of_places(command, before, after),
            *self._of_out(command, run, before, after),
        ]

    def _of_end(self, command: Command, run: Run) -> Iterator[str]:
        if run.code not in (*_CODES, *(command.fault.exit_codes if run.hit else ())):
            yield f"it exits with {run.code}: {run.stderr[-300:]}"
        if command.name != "inspect":  # it says in its result what is wrong
            yield from of_words(run)
        yield from (f"outside: {line}" for line in run.outside)
        yield from (f"it runs {name}.py of the current folder" for _, name in sorted(marked(self._marks)))
        self._marks.unlink(missing_ok=True)

    def _of_places(self, command: Command, before: Entries, after: Entries) -> Iterator[str]:
        """Yield what changed of the user's, or outside OUT and the folders next to it that a build needs."""
        name = PurePosixPath(command.out).name
        beside = re.compile(
            rf"work/({re.escape(command.out)}({PARTIAL})?|.*\.{re.escape(name)}\.(replaced-)?[0-9a-f]{{16}}(\.part)?)(/.*)?"
        )
        for path in sorted(before.keys() | after.keys()):
            if before.get(path) == after.get(path):
                continue
            above = path not in before and path in map(str, PurePosixPath("work", command.out).parents)
            own = (command.builds or command.adds) and (above or beside.fullmatch(path))
            if path in self.home.theirs or not own:
                what = "vanished" if path not in after else "changed" if path in before else "appeared"
                yield f"{path} {what}"

    def _of_out(self, command: Command, run: Run, before: Entries, after: Entries) -> Iterator[str]:
        was, now = _inside(before, command.out), _inside(after, command.out)
        if command.adds:
            yield from self._of_added(command, run, changed=was != now)
        elif command.builds and (
            run.code == 0 or not _is_earlier(command.out, before, after, killed=run.hit is not None)
        ):
            yield from self._of_built(command, run)

    def _of_built(self, command: Command, run: Run) -> Iterator[str]:
        self._known.pop(command.out, None)
        key, code, alone = self._of_alone(command, None)
        if code:
            yield f"OUT has changed (exit code {run.code}), and in an empty place the command is refused ({code})"
        elif found := self._differences(command.out, alone, killed=run.hit is not None):
            yield f"OUT is not the result of the command (exit code {run.code}): {', '.join(found)}"
        else:
            self._known[command.out] = key

    def _of_added(self, command: Command, run: Run, *, changed: bool) -> Iterator[str]:
        prior = self._known.get(command.out)
        if prior is None or prior not in self._alone or not changed:
            return
        del self._known[command.out]
        if run.code == 0 and command.recorded:
            key, code, alone = self._of_alone(command, prior)
            if code:
                yield f"in an empty place the command ends with {code}"
            elif found := self._differences(command.out, alone, killed=run.hit is not None):
                yield f"OUT is not the result of the commands: {', '.join(found)}"
            self._known[command.out] = key
        else:
            out = self.home.work / command.out
            yield from faulty_files(out, Manifest.read(out / MANIFEST))

    def _differences(self, out: str, alone: Path, *, killed: bool) -> list[str]:
        place, but = self.home.work / out, {LOCK, STATE} if killed else {LOCK}
        if alone.is_file():
            return [] if place.is_file() and place.read_bytes() == alone.read_bytes() else ["other bytes"]
        for one in self.home.theirs:
            path = PurePosixPath(one)
            if path.is_relative_to(f"work/{out}"):
                inside = path.relative_to(f"work/{out}")
                but |= {str(part) for part in (inside, *inside.parents) if not (alone / part).exists()}
        return differences(place, alone, but=but)

    def _of_alone(self, command: Command, prior: str | None) -> tuple[str, int, Path]:
        """Returns key, exit code and OUT of a command in an empty place. prior: the key of the OUT that it adds to."""
        work, out = self.home.work, command.out
        names = {"model", PUBLISHED, "text.txt", "eval.txt"} if command.adds else set[str]()
        names |= {
            word for word in command.words[1:] if word not in (out, f"./{out}") and (work / word).exists()
        }
        inputs = [(name, snapshot(work / name) or _digest(work / name)) for name in sorted(names)]
        key = hashlib.sha256(json.dumps([command.words, inputs, prior]).encode()).hexdigest()
        if key not in self._alone:
            keep, start = self._folder / key[:24], None if prior is None else self._alone[prior][1]
            code = self.home.alone(
                sorted(names), start, lambda: self._run(Command(command.words)).code, out, keep
            )
            self._alone[key] = code, keep
            if len(self._alone) > _KEPT:
                remove(self._alone.popitem(last=False)[1][1])
        self._alone.move_to_end(key)
        return key, *self._alone[key]


def _kinds(faults: Sequence[str]) -> set[str]:
    return {fault.partition(":")[0] for fault in faults}


def _drawn(line: str) -> str:
    return line.replace("MODEL", "model").replace("OUT", "out")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _inside(entries: Entries, folder: str) -> Entries:
    """Returns what is at a path of `work` and below, by path in it, but the marks of a run that is not done."""
    top = f"work/{folder}"
    found = {path.removeprefix(top): one for path, one in entries.items() if f"{path}/".startswith(f"{top}/")}
    return {path: one for path, one in found.items() if path not in (f"/{LOCK}", f"/{STATE}")}


def _is_earlier(out: str, before: Entries, after: Entries, *, killed: bool) -> bool:
    """Whether OUT is an earlier OUT, or a build that was being replaced is still there, under the name it had meanwhile."""
    aside = re.compile(rf"work/(\.{re.escape(PurePosixPath(out).name)}\.replaced-\w+)")
    was, now = _inside(before, out), _inside(after, out)
    earlier = [was, *(_inside(before, found[1]) for path in before if (found := aside.fullmatch(path)))]
    meanwhile = [_inside(after, found[1]) for path in after if (found := aside.fullmatch(path))]
    return now in earlier or (killed and not now and was in meanwhile)


@contextlib.contextmanager
def serving() -> Iterator[tuple[Path, Runner]]:
    """A temporary folder for simulators, and a server that has imported and traced what their commands need."""
    with tempfile.TemporaryDirectory(prefix="simulate-") as made:
        folder = Path(made).resolve()
        variables = {"HOME": f"{folder}/simulated/home", MARKS: f"{folder}/{MARKS}"}
        with runner(folder / "runner", folder / "cache", **variables) as server:
            home = Home(folder / "warm")
            for line in (*list(BUILDERS)[:2], list(BUILDERS)[3], next(iter(ADDING)), *list(READING)[:3]):
                server.warm(*_drawn(line).split(), *["--force"] * (" -o " in line), folder=home.work)
            yield folder, server


def simulate(simulator: Simulator, count: int, seed: int) -> Attack:
    """Do `count` steps. The first episode has the seed, each other one the next."""
    broken = []
    for done in range(0, count, _EPISODE):
        steps = simulator.episode(seed + done // _EPISODE, min(_EPISODE, count - done))
        if simulator.broken(steps):
            fewest, faults = simulator.shrunk(steps)
            told = f"seed {seed + done // _EPISODE}, the shortest sequence that breaks:"
            broken.append("\n    ".join([told, *fewest, *(f"=> {one}" for one in faults)]))
            print(broken[-1], flush=True)
    return Attack("commands, faults, links, changed inputs and files of the user, drawn", count, broken)


def attack(
    *, small: bool = False, only: Sequence[str] = (), count: int | None = None, seed: int = 0
) -> list[Attack]:
    """Simulate. count: of steps; seed: of the first episode; only: the steps of the only episode."""
    with serving() as served:
        simulator = Simulator(*served)
        if not only:
            return [simulate(simulator, count or (300 if small else 20_000), seed)]
        found = simulator.broken(only)
        return [Attack("given steps", len(only), ["; ".join(found[1])] if found else [])]
