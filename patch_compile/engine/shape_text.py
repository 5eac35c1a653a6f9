"""Reads shapes as users spell them: `input_ids:1x128` for an input, as trtexec does, or `batch=1` for a dimension."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from patch_compile.errors import UsageError

__all__ = ["SpelledShape", "read_shapes"]

_SHAPE = re.compile(r"\d+(?:x\d+)*")


@dataclass(frozen=True)
class SpelledShape:
    """The sizes of an input, or the one size of a dimension."""

    name: str
    sizes: tuple[int, ...]
    of_dimension: bool


def read_shapes(spec: str, flag: str) -> Iterator[SpelledShape]:
    """Yield what each part of the specification names. Raises UsageError for a part that is no shape."""
    for part in filter(None, (part.strip() for part in spec.split(","))):
        dimension, is_dimension, size = (piece.strip() for piece in part.partition("="))
        if is_dimension and ":" not in size:
            yield SpelledShape(dimension, (_size(dimension, size, flag),), of_dimension=True)
            continue
        name, _, shape = (piece.strip() for piece in part.rpartition(":"))
        if not name or not _SHAPE.fullmatch(shape):
            raise UsageError(
                f"{flag}: {part!r} is no shape",
                "An input is NAME:1x128, a dimension is NAME=128.",
                "Separate them by commas: batch=1,sequence=128.",
            )
        yield SpelledShape(name, tuple(map(int, shape.split("x"))), of_dimension=False)


def _size(dimension: str, size: str, flag: str) -> int:
    if not dimension or not size.isdecimal():
        raise UsageError(
            f"{flag}: {size!r} is no size for the dimension {dimension!r}",
            "A size is a whole number.",
            f"Write {dimension or 'batch'}=128.",
        )
    return int(size)
