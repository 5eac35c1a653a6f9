"""Prints what a command does on stderr, if PATCH_COMPILE_DEBUG asks for it.

1 prints stages with their seconds, 2 also the decision about each linear, 3 also the graph after each pass, 4 also tensors.
0, the default, prints nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from masklearn.base.printable import one_line
from patch_compile.errors import UsageError

VARIABLE = "PATCH_COMPILE_DEBUG"
STAGES, LINEARS, GRAPHS, TENSORS = 1, 2, 3, 4
_BEGIN = time.monotonic()


def debug_level() -> int:
    """Returns the level of the environment. Raises UsageError if it is not a level."""
    given = os.environ.get(VARIABLE) or "0"
    if given not in ("0", "1", "2", "3", "4"):
        raise UsageError(
            f"{VARIABLE} is {given}", "It is a level from 0 to 4.", f"Set {VARIABLE}=1, or unset it."
        )
    return int(given)


def tell(level: int, lines: str | Iterable[str]) -> None:
    """Print a line, or several, to stderr at this level and above, with the seconds since the process began.

    Lines that take time to make come as a generator, which is not asked at a lower level.
    """
    if debug_level() >= level:
        for line in (lines,) if isinstance(lines, str) else lines:
            print(f"debug {time.monotonic() - _BEGIN:.2f} s: {one_line(line)}", file=sys.stderr, flush=True)


@contextmanager
def tell_seconds(name: str) -> Iterator[None]:
    """Tell when the block begins, and when it ends its seconds."""
    tell(STAGES, f"{name} begins")
    begin = time.monotonic()
    try:
        yield
    finally:
        tell(STAGES, f"{name} took {time.monotonic() - begin:.2f} s")


def tensor_words(name: str, tensor: Any) -> str:
    """Returns a tensor's type, shape and range: `logits float32 [1, 17, 256] -3.1 … 4.2`. NaN is neither end."""
    import numpy as np

    array = np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)
    words = f"{name} {array.dtype.name} {list(array.shape)}"
    if not array.size or array.dtype.kind in "OSU":
        return words
    numbers = array.astype(np.float64)
    return f"{words} {np.fmin.reduce(numbers, None):g} … {np.fmax.reduce(numbers, None):g}"


def difference_lines(name: str, mine: Any, reference: Any) -> Iterator[str]:
    """Yield the index and both values of the first element in which two arrays differ."""
    if mine.shape != reference.shape:
        yield f"{name} is {list(mine.shape)}, and {list(reference.shape)} in the reference"
        return
    apart = (mine != reference) & ((mine == mine) | (reference == reference))  # NaN agrees with NaN
    if not apart.any():
        yield f"{name} is the same in the reference"
        return
    at = tuple(int(index[0]) for index in apart.nonzero())
    where = f"{name} differs in {int(apart.sum())} of {mine.size} elements, first at {list(at)}"
    yield f"{where}: {mine[at]} instead of {reference[at]}"
