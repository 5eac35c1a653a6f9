"""A reader of foreign bytes, and the one rule that all of them are held to: they accept, or they refuse in words."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from patch_compile.errors import PatchCompileError
from tests.work import slowness

__all__ = ["CORPUS", "Crash", "Mutation", "Reader", "attempt", "placed"]

CORPUS = Path(__file__).parents[1] / "corpus"
_OURS = ("masklearn", "patch_compile")
_MOST_SECONDS = 10.0  # of the processor, for one input, times the slowness of the machine

Mutation = Callable[[bytes, Random], bytes]


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


@dataclass(frozen=True)
class Crash:
    """An error that escaped, or an input that takes too long.

    kind: the error's class, or `slow`; place: the innermost line of the project on its way, or the reader; details: the
    traceback, or the time.
    """

    kind: str
    place: str
    details: str

    @property
    def name(self) -> str:
        """Returns a file name, the same for all inputs that lead to this error at this place."""
        return f"crash-{self.kind}-{self.place}"


def attempt(reader: Reader, data: bytes, folder: Path) -> Crash | None:
    """Read the bytes. Returns what is wrong: an error that escaped, or more than 10 seconds of the processor
    of the machine of the limits.

    Returns None if the bytes were accepted or refused in words.
    """
    began = time.process_time()
    try:
        reader.read(data, folder)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        if not isinstance(error, PatchCompileError) and type(error) not in reader.refuses:
            return _crash_of(error)
    used = time.process_time() - began
    if used > _MOST_SECONDS and used > _MOST_SECONDS * slowness():
        return Crash("slow", reader.name, f"{used:.1f} s of the processor\n")
    return None


def _crash_of(error: BaseException) -> Crash:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(f"/{package}/" in frame.filename for package in _OURS)]
    at = (ours or frames)[-1]
    return Crash(
        type(error).__name__,
        f"{Path(at.filename).stem}-{at.lineno}",
        "".join(traceback.format_exception(error)),
    )


def placed(folder: Path, name: str, data: bytes) -> Path:
    """Write the bytes to a file of the folder, and return its path."""
    path = folder / name
    path.write_bytes(data)
    return path
