"""Draws sequences of commands, faults, changed inputs, links and files of the user, and checks after each command:

- Nothing outside OUT has changed.
- No file of the user has vanished or changed.
- OUT is what the same command makes in an empty place. After a refusal or a fault, the earlier OUT is whole.
- No code of the surroundings has run, and the command has ended in words.

A step is a line: a command, with a fault in front (`KILL@17 learn model -o out …`), or what the user does, see `Home`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from patch_compile.artifacts.folder import faulty_files
from patch_compile.artifacts.layout import MANIFEST, PARTIAL, STATE
from patch_compile.artifacts.lock import LOCK
from patch_compile.artifacts.manifest import Manifest
from patch_compile.artifacts.stage_files import remove
from tests.attacks.attack import Attack
from tests.attacks.faults.runs import Run, Runner, runner
from tests.attacks.faults.scenario import differences, snapshot
from tests.attacks.faults.shim import Fault
from tests.attacks.faults.sweep import of_words
from tests.attacks.simulator.home import PUBLISHED, Entry, Home
from tests.cli.poison import MARKS, marked

_EPISODE = 20  # steps, after which all begins anew
_KEPT = 200  # results in empty places that stay on the disk
_CODES = (0, 1, 2, 5)  # 5: `verify` found nothing to check
_RANDOM = re.compile("[0-9a-f]{16}")
Entries = dict[str, Entry]

# Commands that replace OUT, those that add a folder to it, those that change nothing, and what the user does, with how
# often each is drawn. Words of `_WORDS` are drawn too.
BUILDERS = {
    "learn MODEL -o OUT --ratio 0.4 --method magnitude --repair none --tile 32x32": 8,
    "learn MODEL -o OUT --ratio 0.3 --method wanda --calib text.txt --windows 2 --length 16 --repair none --tile 32x32": 8,
    "compile MODEL --mask masks.safetensors -o OUT --lowering plugin": 4,
    "build MODEL -o OUT --recipe recipe.yaml --backend onnx --lowering plugin --eval eval.txt --eval-windows 1 "
    "--eval-length 16 --calib text.txt --windows 2 --length 16": 5,
    f"import-mask {PUBLISHED} --model MODEL -o other.safetensors --tile 32x32": 2,
}
ADDING = {
    "verify OUT --only compiled --lengths 1": 3,
    "export OUT": 1,
}
READING = {
    "inspect OUT": 4, "inspect MODEL": 1, "plan MODEL --ratio 0.4 --target a6000": 1, "run OUT cat --new-tokens 1": 1,
}  # fmt: skip
_USER = {"write VERSION INPUT": 4, "keep KEPT": 2, "link LINK WRITTEN": 3, "damage WRITTEN": 1, "tidy": 2}
_WORDS: dict[str, dict[str, int]] = {
    "MODEL": {"model": 20, "out/src": 1, "out/model": 1, PUBLISHED: 1},
    "OUT": {"out": 30, "other": 4} | dict.fromkeys(
        ("./out", "model/out", "model", ".", "out/model", ".git", "text.txt"), 1),
    "VERSION": {"0": 1, "1": 3},
    "KEPT": dict.fromkeys(("out/notes.txt", "out/.git", "out/verify/mine", "out/model/mine.safetensors",
                           "out.partial/mine", "out/scratch", "out/src"), 1),
    "LINK": dict.fromkeys(("file", "folder", "nothing", "hard"), 1),
}  # fmt: skip
_FAULTS = {
    Fault.KILL: 6, Fault.POWER: 2, Fault.TORN: 2, Fault.FULL: 1, Fault.EIO: 2, Fault.INTERRUPT: 2, Fault.TERMINATE: 1,
}  # fmt: skip
_LATEST = 280  # operations of the longest command


@dataclass(frozen=True)
class Command:
    """A command of a step. flags: `--force` and `--resume`, which change no result."""

    words: tuple[str, ...]
    flags: tuple[str, ...] = ()
    fault: Fault = Fault.NONE
    at: int = 0

    @classmethod
    def parse(cls, line: str) -> Command | None:
        """Returns the command of a step, None for what the user does."""
        first, *words = line.split()
        name, marked, number = first.partition("@")
        words = words if marked else [first, *words]
        if hasattr(Home, f"_{words[0]}"):
            return None
        flags = tuple(word for word in words if word in ("--force", "--resume"))
        given = tuple(word for word in words if word not in flags)
        return cls(given, flags, Fault[name] if marked else Fault.NONE, int(number or 0))

    @property
    def out(self) -> str:
        """The path that the command may change."""
        named = self.words[self.words.index("-o") + 1] if self.builds else self.words[1]
        return named.removeprefix("./") or "."

    @property
    def builds(self) -> bool:
        return "-o" in self.words

    @property
    def adds(self) -> bool:
        return self.words[0] in {line.split()[0] for line in ADDING}


def drawn(rng: random.Random, written: Collection[str], inputs: Collection[str], count: int) -> list[str]:
    """Returns steps. The first is a build, without which most commands do nothing.

    written: paths that commands write, for links; inputs: files that the user changes.
    """
    words = _WORDS | {"WRITTEN": dict.fromkeys(written, 1), "INPUT": dict.fromkeys(inputs, 1)}

    def one(weights: dict[str, int]) -> str:
        return rng.choices([*weights], [*weights.values()])[0]

    def step() -> str:
        (lines,) = rng.choices((BUILDERS, ADDING, READING, _USER), (10, 6, 2, 10))
        line = one(lines)
        line = " ".join(one(words[word]) if word in words else word for word in line.split())
        if lines is BUILDERS:
            line += " --force" * (rng.random() < 0.7) + " --resume" * (rng.random() < 0.5)
        if lines in (BUILDERS, ADDING) and rng.random() < 0.4:
            line = f"{rng.choices([*_FAULTS], [*_FAULTS.values()])[0].name}@{rng.randint(1, _LATEST)} {line}"
        return line

    return [_plain(one(BUILDERS)), *(step() for _ in range(count - 1))]


def _plain(line: str) -> str:
    return line.replace("MODEL", "model").replace("OUT", "out")


class Simulator:
    """Runs steps in a home below the folder of `serving`, which one simulator has at a time.

    change: of the program, as `Runner.run` takes it; None for the program as it is.
    """

    def __init__(self, folder: Path, made: Runner, change: str | None = None) -> None:
        self._runner, self._folder, self._change = made, folder / "simulated", change
        self._marks = folder / MARKS
        shutil.rmtree(self._folder, ignore_errors=True)
        self.home = Home(self._folder)
        self._alone: dict[str, tuple[int, Path]] = {}
        self._known: dict[str, str] = {}  # the key of the result that each OUT has
        for line, name in zip(list(BUILDERS)[:2], ("masks", "others"), strict=True):
            done = self._run(Command.parse(_plain(line).replace(" out ", f" {name} ")))
            assert done.code == 0, done.stderr
        self.home.finish(self.home.work / "masks", self.home.work / "others")
        lines = (f"{_plain(line)}{' --force' * (' -o ' in line)}" for line in (*BUILDERS, *ADDING, *READING))
        self.written = sorted(
            path for path in self.writes(*lines) if path.startswith(("out/", "out.", "other"))
        )

    def writes(self, *lines: str) -> dict[str, bool]:
        """Do steps from the beginning. Returns the paths that they write, but no random names, and True for folders."""
        self.home.reset()
        found: dict[str, bool] = {}
        for line in lines:
            before = snapshot(self.home.work)
            run = self._run(Command.parse(line))
            assert run.code == 0 or line in map(_plain, ADDING), run.stderr
            now = snapshot(self.home.work)
            top = f"{self.home.work}/"
            found |= {one.path.removeprefix(top): one.name == "mkdir" for one in run.operations
                      if one.kind in "cg" and one.path.startswith(top)}  # fmt: skip
            found |= {name: kind == "folder" for name, kind in now.items() if before.get(name) != kind}
        self._marks.unlink(missing_ok=True)
        return {path: folder for path, folder in found.items() if not _RANDOM.search(path)}

    def broken(self, steps: Sequence[str]) -> tuple[int, list[str]] | None:
        """Do the steps from the beginning. Returns the number of those that were done and what broke, None if all held."""
        self.home.reset()
        self._known.clear()
        if len(self._alone) > _KEPT:
            for _, keep in self._alone.values():
                remove(keep)
            self._alone.clear()
        for number, line in enumerate(steps, 1):
            if faults := self._step(line):
                return number, faults
        return None

    def _run(self, command: Command) -> Run:
        words = (*command.words, *command.flags)
        return self._runner.run(
            *words, folder=self.home.work, fault=command.fault, at=command.at, change=self._change
        )

    def _step(self, line: str) -> list[str]:
        command = Command.parse(line)
        if command is None:
            self.home.act(*line.split())
            if line.startswith(("link", "damage")):
                self._known.clear()
            return []
        before = self.home.entries()
        run = self._run(command)
        after = self.home.entries()
        of_out = self._of_out(command, run, before, after)
        return [*self._of_end(command, run), *self._of_places(command, before, after), *of_out]

    def _of_end(self, command: Command, run: Run) -> Iterator[str]:
        if run.code not in (*_CODES, *(command.fault.exit_codes if run.hit else ())):
            yield f"it exits with {run.code}: {run.stderr[-300:]}"
        if command.words[0] != "inspect":  # it says in its result what is wrong
            yield from of_words(run)
        yield from (f"outside: {line}" for line in run.outside)
        yield from (f"it runs {name}.py of the current folder" for _, name in sorted(marked(self._marks)))
        self._marks.unlink(missing_ok=True)

    def _of_places(self, command: Command, before: Entries, after: Entries) -> Iterator[str]:
        """Yield what changed of the user's, or outside OUT and the folders next to it that a build needs."""
        name, own = re.escape(PurePosixPath(command.out).name), re.escape(command.out)
        beside = re.compile(
            rf"work/({own}({PARTIAL})?|.*\.{name}\.(replaced-)?[0-9a-f]{{16}}(\.part)?)(/.*)?"
        )
        above = {str(folder) for folder in PurePosixPath("work", command.out).parents}
        for path in sorted(before.keys() | after.keys()):
            may = (command.builds or command.adds) and (
                (path in above and path not in before) or beside.fullmatch(path)
            )
            if before.get(path) != after.get(path) and (path in self.home.theirs or not may):
                what = "vanished" if path not in after else "changed" if path in before else "appeared"
                yield f"{path} {what}"

    def _of_out(self, command: Command, run: Run, before: Entries, after: Entries) -> Iterator[str]:
        """Yield how OUT differs from what the command makes in an empty place, if it is not the earlier OUT."""
        out, killed = command.out, run.hit is not None
        prior = self._known.get(out) if command.adds else None
        if command.adds:
            earlier = prior is None or _inside(before, out) == _inside(after, out)
        else:
            earlier = bool(run.code) and _is_earlier(out, before, after, killed=killed)
        if earlier or not (command.adds or command.builds):
            return
        self._known.pop(out, None)
        if command.adds and run.code:
            yield from faulty_files(self.home.work / out, Manifest.read(self.home.work / out / MANIFEST))
            return
        key, code, alone = self._of_alone(command, prior)
        if code:
            yield f"OUT has changed (exit code {run.code}), and in an empty place the command is refused ({code})"
        elif found := self._differences(out, alone, killed=killed):
            yield f"OUT is not the result of the command (exit code {run.code}): {', '.join(found)}"
        else:
            self._known[out] = key

    def _differences(self, out: str, alone: Path, *, killed: bool) -> list[str]:
        place, but = self.home.work / out, {LOCK, STATE} if killed else {LOCK}
        if alone.is_file():
            return [] if place.is_file() and place.read_bytes() == alone.read_bytes() else ["other bytes"]
        for path in map(PurePosixPath, self.home.theirs):
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
            run = Command(command.words)
            self._alone[key] = (
                self.home.alone(sorted(names), start, lambda: self._run(run).code, out, keep),
                keep,
            )
        return key, *self._alone[key]


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
                server.warm(*_plain(line).split(), *["--force"] * (" -o " in line), folder=home.work)
            yield folder, server


def simulate(simulator: Simulator, count: int, seed: int) -> Attack:
    """Do `count` steps. The first episode has the seed, each other one the next."""
    broken = []
    for done in range(0, count, _EPISODE):
        rng, length = random.Random(seed + done // _EPISODE), min(_EPISODE, count - done)
        steps = drawn(rng, simulator.written, simulator.home.changes, length)
        if found := simulator.broken(steps):
            number, faults = found
            told = f"seed {seed + done // _EPISODE}:"
            broken.append("\n    ".join([told, *steps[:number], *(f"=> {fault}" for fault in faults)]))
    return Attack("commands, faults, links, changed inputs and files of the user, drawn", count, broken)


def attack(*, only: Sequence[str] = (), count: int = 20_000, seed: int = 0) -> list[Attack]:
    """Simulate. count: of steps; seed: of the first episode; only: the steps of the only episode."""
    with serving() as served:
        simulator = Simulator(*served)
        if not only:
            return [simulate(simulator, count, seed)]
        found = simulator.broken(only)
        return [Attack("given steps", len(only), ["; ".join(found[1])] if found else [])]
