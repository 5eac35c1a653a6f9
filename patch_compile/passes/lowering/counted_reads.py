"""Reports progress while weights are read, which happens when they are written."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from numpy.typing import NDArray

__all__ = ["counted_reads"]


def counted_reads(
    read: Callable[[str], NDArray[Any]],
    linears: Collection[str],
    progress: Callable[[str, int, int], object],
) -> Callable[[str], NDArray[Any]]:
    """Returns `read`, which now reports each `<linear>.weight` of these linears, before it reads it.

    progress: called with a linear's name, the number of linears read, and of all.
    """
    done = 0

    def counted(name: str) -> NDArray[Any]:
        nonlocal done
        linear = name.removesuffix(".weight")
        if linear != name and linear in linears:
            done += 1
            progress(linear, done, len(linears))
        return read(name)

    return counted
