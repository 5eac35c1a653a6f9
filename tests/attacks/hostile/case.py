"""One hostile input, and the commands that it is fed to."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ALLOWED", "Case", "Sound", "draw"]

ALLOWED = (0, 1, 2, 3, 5)  # exit codes: ok, user or machine, usage, accuracy, not checked
Make = Callable[["Sound", Path], None]


@dataclass(frozen=True)
class Sound:
    """Files that are as they should be, which hostile ones are made from.

    root: folder of a checkpoint (`model`), its masks (`masks.safetensors`), a text (`text.txt`), an ONNX model
    (`model.onnx`) and a finished build of the checkpoint (`out`).
    """

    root: Path

    def copy(self, what: str, place: Path) -> Path:
        """Copy a file or a folder to `place`, and return `place`."""
        source = self.root / what
        if source.is_dir():
            shutil.copytree(source, place)
        else:
            shutil.copyfile(source, place)
        return place


@dataclass(frozen=True)
class Case:
    """A hostile input.

    kind: class of input; name: name of the change, unique in its kind; make: writes the input to the current folder of
    the commands; commands: command lines to run, each on an input made anew; named: texts of which each complaint must
    contain one; env: additional environment variables; writes: beginnings of the paths that the commands may write,
    beside `out`.
    """

    kind: str
    name: str
    make: Make
    commands: tuple[str, ...]
    named: tuple[str, ...] = ("stranger",)
    env: Mapping[str, str] = field(default_factory=dict)
    writes: tuple[str, ...] = ()
    codes: tuple[int, ...] = ALLOWED

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def draw(name: str) -> random.Random:
    """Returns the generator of random choices that belongs to a name: always the same."""
    return random.Random(f"hostile/{name}")
