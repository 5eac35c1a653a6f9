"""The steps of a simulation. A step is a line: a command, with a fault in front (`KILL@17 learn model -o out …`), or what
the user does (`write 1 text.txt`), see `Home`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from tests.attacks.faults.shim import Fault
from tests.attacks.simulator.home import BROUGHT, PUBLISHED, Home

_TILE = "--tile 32x32"
_WANDA = "--method wanda --calib text.txt --windows 2 --length 16"
_LEARNING = f"--repair none {_TILE}"
_PROVED = "--backend onnx --lowering plugin --eval eval.txt --eval-windows 1 --eval-length 16"
# Commands that replace OUT, those that add a folder to it, and those that change nothing. MODEL and OUT are drawn.
BUILDERS = {
    f"learn MODEL -o OUT --ratio 0.4 --method magnitude {_LEARNING}": 8,
    f"learn MODEL -o OUT --ratio 0.3 {_WANDA} {_LEARNING}": 8,
    "compile MODEL --mask masks.safetensors -o OUT --lowering plugin": 4,
    f"build MODEL -o OUT --recipe recipe.yaml {_PROVED} --calib text.txt --windows 2 --length 16": 5,
    f"import-mask {PUBLISHED} --model MODEL -o other.safetensors {_TILE}": 2,
}
ADDING = {
    "verify OUT --only compiled --lengths 1": 3,
    "bench OUT --runner onnx --batch-size 1 --prompt-tokens 8 --iterations 1 --warm-up 1 --against none": 1,
    "export OUT": 1,
}
READING = {
    "inspect OUT": 4,
    "inspect MODEL": 1,
    "plan MODEL --ratio 0.4 --target a6000": 1,
    "run OUT cat --new-tokens 1": 1,
}
_MODELS = {"model": 20, BROUGHT: 1, "out/model": 1, PUBLISHED: 1}
_OUTS = {
    "out": 30,
    "other": 4,
    "model/out": 1,
    "model": 1,
    ".": 1,
    "out/model": 1,
    ".git": 1,
    "text.txt": 1,
    "./out": 1,
}
_KEPT = (
    "out/notes.txt",
    "out/.git",
    "out/verify/mine",
    "out/model/mine.safetensors",
    "out.partial/mine",
    "out/scratch",
)
_FAULTS = {
    Fault.KILL: 6, Fault.POWER: 2, Fault.TORN: 2, Fault.FULL: 1, Fault.EIO: 2, Fault.INTERRUPT: 2, Fault.TERMINATE: 1,
}  # fmt: skip
_LATEST = 280  # operations of the longest command
Drawn = TypeVar("Drawn")


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
        fault, at = Fault.NONE, 0
        if "@" in first:
            name, _, number = first.partition("@")
            fault, at, first, words = Fault[name], int(number), words[0], words[1:]
        if first in vars(Home) or f"_{first}" in vars(Home):
            return None
        flags = tuple(word for word in words if word in ("--force", "--resume"))
        return cls((first, *(word for word in words if word not in flags)), flags, fault, at)

    @property
    def name(self) -> str:
        return self.words[0]

    @cached_property
    def out(self) -> str:
        """The path that the command may change."""
        named = self.words[self.words.index("-o") + 1] if "-o" in self.words else self.words[1]
        return named.removeprefix("./") or "."

    @property
    def builds(self) -> bool:
        return "-o" in self.words

    @property
    def adds(self) -> bool:
        return self.name in {line.split()[0] for line in ADDING}

    @property
    def recorded(self) -> bool:
        """Whether the files that it adds follow from its inputs. A measured time does not."""
        return self.name != "bench"


@dataclass
class Drawer:
    """Draws the steps of an episode. written: paths that commands write, for links; inputs: files that the user changes."""

    written: Sequence[str]
    inputs: Sequence[str]
    rng: random.Random
    _planted: bool = field(default=False, init=False)

    def steps(self, count: int) -> list[str]:
        """Returns steps. The first is a build, without which most commands do nothing."""
        return [self._command(BUILDERS).replace(" OUT", " out"), *(self._step() for _ in range(count - 1))]

    def _step(self) -> str:
        if self._planted and self.rng.random() < 0.3:  # else every later command would refuse
            self._planted = False
            return "tidy"
        kinds = {
            self._builder: 10,
            self._adding: 6,
            self._reading: 2,
            self._change: 4,
            self._plant: 5,
            self._lose: 1,
        }
        return self._one(kinds)()

    def _builder(self) -> str:
        flags = [flag for flag, share in (("--force", 0.7), ("--resume", 0.5)) if self.rng.random() < share]
        return self._faulty(" ".join([self._command(BUILDERS), *flags]))

    def _adding(self) -> str:
        line = self._faulty(self._command(ADDING))
        return f"{line} --force" if " bench " in f" {line}" else line

    def _reading(self) -> str:
        return self._command(READING)

    def _change(self) -> str:
        return f"write {self.rng.choice('0111')} {self.rng.choice(self.inputs)}"

    def _plant(self) -> str:
        self._planted = True
        kind = self._one({"keep": 4, "bring": 1, "link": 8})
        if kind == "keep":
            return f"keep {self.rng.choice(_KEPT)}"
        links = ("file", "folder", "nothing", "hard")
        return kind if kind == "bring" else f"link {self.rng.choice(links)} {self.rng.choice(self.written)}"

    def _lose(self) -> str:
        self._planted = False
        return self._one({"clear": 1, f"damage {self.rng.choice(self.written)}": 2})

    def _command(self, lines: dict[str, int]) -> str:
        words = self._one(lines).split()
        drawn = {"MODEL": self._one(_MODELS), "OUT": self._one(_OUTS)}
        return " ".join(drawn.get(word, word) for word in words)

    def _faulty(self, line: str) -> str:
        if self.rng.random() < 0.6:
            return line
        return f"{self._one(_FAULTS).name}@{self.rng.randint(1, _LATEST)} {line}"

    def _one(self, weights: dict[Drawn, int]) -> Drawn:
        return self.rng.choices(list(weights), list(weights.values()))[0]
