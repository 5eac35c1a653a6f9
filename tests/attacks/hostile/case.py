"""One hostile input, the commands that it is fed to, and how it is made from sound files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.attacks.values import PLACES, Change, dump

# Options that make a build of the tiny model as short as it can be.
LEARN = (
    "--ratio 0.4 --method magnitude --tile 32x32 --calib SOUND/text.txt "
    "--eval SOUND/eval.txt --eval-windows 1 --eval-length 16"
)
BUILD = f"{LEARN} --backend onnx --lowering plugin"
WANDA = LEARN.replace("magnitude", "wanda --windows 1 --length 16")  # it reads text
ONNX_BUILD = "build {} -o out --ratio 0.4 --method magnitude --tile 32x32 --backend onnx --lowering plugin"
ALLOWED = (0, 1, 2, 3, 5)  # exit codes: ok, user or machine, usage, accuracy, not checked
Make = Callable[["Sound", Path], object]


@dataclass(frozen=True)
class Sound:
    """Sound files, from which hostile files are made.

    root: folder of a checkpoint (`model`), its masks (`masks.safetensors`), a text (`text.txt`), an ONNX model
    (`model.onnx`) and a finished build of the checkpoint (`out`).
    """

    root: Path

    def copy(self, what: str, place: Path) -> Path:
        """Copy a file or a folder to `place`, and return `place`."""
        source = self.root / what
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, place)
        return place

    def json(self, file: str) -> Any:
        return json.loads((self.root / file).read_text())


@dataclass(frozen=True)
class Case:
    """A hostile input.

    kind: class of input; name: name of the change, unique in its kind; make: writes the input to the current folder of
    the commands; commands: command lines to run, each on an input made anew; named: texts of which each complaint must
    contain one; env: additional environment variables; writes: beginnings of the paths that the commands may write
    besides `out`.
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


Commands = tuple[str, ...] | Callable[[int, str], tuple[str, ...]]


def cases(
    kind: str, commands: Commands, makes: Iterable[tuple[str, Make]], **settings: Any
) -> Iterator[Case]:
    """Yield a case for each maker. commands: of all cases, or by a case's number and name."""
    for number, (name, make) in enumerate(makes):
        yield Case(kind, name, make, commands(number, name) if callable(commands) else commands, **settings)


def alone(file: str, change: Change) -> Make:
    """Returns a maker of a file in an empty folder."""
    return lambda sound, folder: change(folder / file)


_MakerOf = Callable[[str, Change], Make]


def contents(
    file: str, values: Iterable[tuple[str, Any]], make: _MakerOf = alone, before: str = ""
) -> Iterator[tuple[str, Make]]:
    """Yield a maker for each content of a file. before: beginning of all names."""
    return ((f"{before}{name}", make(file, written(value))) for name, value in values)


def places(file: str, make: _MakerOf = alone, before: str = "") -> Iterator[tuple[str, Make]]:
    """Yield a maker for each thing that may replace a file."""
    return ((f"{before}{name}", make(file, put)) for name, put in PLACES.items())


def in_model(file: str, change: Change) -> Make:
    """Returns a maker of a model's folder in which a file is changed."""
    return lambda sound, folder: change(sound.copy("model", folder / "stranger") / file)


def written(content: Any) -> Change:
    """Returns a change to bytes, a text, or the JSON text of any other value."""
    text = content if isinstance(content, bytes | str) else dump(content)
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return lambda path: path.write_bytes(content)


def rewritten(change: Callable[[Any], Any]) -> Change:
    """Returns a change of the value in a JSON file. change: changes it in its place, or returns another."""

    def write(path: Path) -> None:
        value = json.loads(path.read_text())
        other = change(value)
        written(value if other is None else other)(path)

    return write
