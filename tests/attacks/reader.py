"""A reader of foreign bytes, and the rule for all of them: they accept, or they refuse in words."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from patch_compile.errors import PatchCompileError
from tests.attacks.attack import BUILD, Attack
from tests.attacks.mutations import Mutation
from tests.work import slowness

CORPUS = Path(__file__).with_name("corpus")
# Beginnings of names: inputs that once led to an error, and inputs that are refused. All others are accepted.
FOUND, REFUSED = "found-", "refused-"
_OURS = ("masklearn", "patch_compile")
_MOST_SECONDS = 10.0  # of the processor, for one input, times the slowness of the machine
_COUNT = 3000  # mutations of each reader


@dataclass(frozen=True)
class Reader:
    """A reader under attack.

    name: name of its folder in the corpus; read: reads the bytes, and may write into the folder that it is given, which
    stays the same in a process; mutate: changes bytes so that deeper layers of the format are reached; refuses: errors
    with which it may refuse, of exactly these classes or of subclasses of `PatchCompileError`; cost: how much slower it is
    than most, so that tests and `make torture` read fewer inputs.
    """

    name: str
    read: Callable[[bytes, Path], object]
    mutate: Mutation
    refuses: tuple[type[Exception], ...] = ()
    cost: int = 1

    def corpus(self) -> list[Path]:
        """Returns the committed inputs, in the order of their names."""
        return sorted(file for file in (CORPUS / self.name).iterdir() if file.is_file())


READERS: dict[str, Reader] = {}


def accepted(name: str) -> list[Path]:
    """Returns the inputs of a reader's corpus that are accepted."""
    return [file for file in READERS[name].corpus() if not file.name.startswith((FOUND, REFUSED))]


def reader(name: str, mutate: Mutation, refuses: tuple[type[Exception], ...] = (), cost: int = 1):
    """Marks a function as a reader of this name."""

    def register(read: Callable[[bytes, Path], object]) -> Callable[[bytes, Path], object]:
        READERS[name] = Reader(name, read, mutate, refuses, cost)
        return read

    return register


@dataclass(frozen=True)
class Crash:
    """An error that escaped, or an input that takes too long.

    name: file name, the same for all inputs that lead to this error at this place; details: the traceback, or the time.
    """

    name: str
    details: str


def attempt(reader: Reader, data: bytes, folder: Path) -> Crash | None:
    """Read the bytes. Returns the fault: an error that escaped, or more than 10 seconds of the processor
    of the machine of the limits.

    Returns None if the bytes were accepted or refused in words.
    """
    began = time.process_time()
    try:
        reader.read(data, folder)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic in Rust is not an Exception
        if not isinstance(error, PatchCompileError) and type(error) not in reader.refuses:
            return _crash_of(error)
    used = time.process_time() - began
    if used > _MOST_SECONDS and used > _MOST_SECONDS * slowness():
        return Crash(f"crash-slow-{reader.name}", f"{used:.1f} s of the processor\n")
    return None


def _crash_of(error: BaseException) -> Crash:
    """Returns the crash at the innermost line of the project, or of the reader."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(f"/{package}/" in frame.filename for package in _OURS)]
    at = (ours or frames)[-1]
    name = f"crash-{type(error).__name__}-{Path(at.filename).stem}-{at.lineno}"
    return Crash(name, "".join(traceback.format_exception(error)))


def placed(folder: Path, name: str, data: bytes) -> Path:
    """Write the bytes to a file of the folder, which is made, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return path


def mutants(reader: Reader, count: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield seed, mutated input, and whether it differs from the corpus. The first inputs are always the same."""
    corpus = [file.read_bytes() for file in reader.corpus()]
    for seed in range(count // reader.cost):
        rng = Random(f"{reader.name}-{seed}")
        data = rng.choice(corpus)
        mutated = reader.mutate(data, rng)
        yield seed, mutated, mutated != data


def attack(*, only: Sequence[str] = ()) -> list[Attack]:
    """Read mutations of each reader's corpus; mutations that break it are kept in build/torture. only: names of readers."""
    from tests.attacks.readers import READERS

    logging.disable(logging.ERROR)
    with TemporaryDirectory() as folder:
        return [
            Attack(f"mutated bytes: {name}", _COUNT // one.cost, tuple(_broken(one, Path(folder) / name)))
            for name, one in READERS.items()
            if not only or name in only
        ]


def _broken(reader: Reader, folder: Path) -> Iterator[str]:
    folder.mkdir()
    for seed, data, _ in mutants(reader, _COUNT):
        if crash := attempt(reader, data, folder):
            kept = placed(BUILD, f"{reader.name}-{crash.name}", data)
            yield f"seed {seed}: {crash.details.strip().splitlines()[-1][:200]}: {kept}"
