"""The index of packed tensors: it says which slabs a panel owns, and where along K each of them lies.

    dense_ptr [P + 1] ++ sparse_ptr [P + 1] ++ … ++ dense_k [nD] ++ sparse_k [nS] ++ …        int32

Panel p owns the rows `dense_ptr[p] … dense_ptr[p + 1] - 1` of `dense`, and likewise of `sparse`; `dense_k` and `sparse_k`
hold k / 64 of each slab. First come the pointers of each kind of slabs, then the columns of each kind, in the order of the
attribute `kinds`: dense and 2:4 in every index, then the n:16 kinds of the weight. The index is the attribute `index` of
a PatchLinear node. The kernels follow it to addresses and check nothing: it is checked here, and by the plugin when it is
created (plugins/kernels/index.h).

Several linears that share X are packed together. A gate and its up take turns: 8 rows of the gate, the 8 rows of the up for
the same outputs, the next 8 rows of the gate, …; a slab has the kind of the tiles of both, or is dense where they differ.
Other linears (q, k and v) are stacked. Each of them keeps its own tile map, begins at a panel and is padded with zero rows
to whole panels. The index is the same as for an ordinary linear with all these rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.packing.slab_kinds import TURN


def csr_index(streams: NDArray[Any], kinds: int = 2) -> NDArray[np.int32]:
    """Returns the index of slabs. streams: number of each slab's kind in the list of kinds, `[panels, slabs]`, where True
    is 2:4; kinds: length of the list."""
    pointers, columns = [], []
    for number in range(kinds):
        chosen = streams == number
        pointers.append(np.concatenate([[0], np.cumsum(chosen.sum(axis=1))]))
        columns.append(np.nonzero(chosen)[1])
    return np.concatenate([*pointers, *columns]).astype(np.int32)


def index_from_attribute(values: object) -> NDArray[Any]:
    """Returns the numbers of the attribute `index`: int32, or of another type, which `index_fault` refuses."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return np.zeros((), np.float64)
    numbers = np.asarray(values)
    if numbers.dtype.kind != "i":
        return numbers
    narrow = numbers.astype(np.int32)
    return narrow if (narrow == numbers).all() else numbers


def index_fault(index: NDArray[Any], grid: tuple[int, int], stored: Mapping[str, int]) -> str:
    """Returns the fault in an index, in words; empty if it leads to every slab of the weight exactly once.

    grid: panels and slabs along K of the weight; stored: numbers of slabs that are stored, by kind, in the order of the
    kinds.
    """
    panels, along_k = grid
    size = len(stored) * (panels + 1) + sum(stored.values())
    if index.dtype != np.int32 or index.shape != (size,):
        counts = " and ".join(f"{count} {kind}" for kind, count in stored.items())
        return (
            f"the index is {index.dtype} {list(index.shape)}; {panels} panels, {counts} slabs "
            f"need int32 [{size}]"
        )
    pointers = index[: len(stored) * (panels + 1)].astype(np.int64).reshape(len(stored), -1)
    columns = split_columns(index, panels, list(stored.values()))
    for (kind, count), own, places in zip(stored.items(), pointers, columns, strict=True):
        fault = _pointer_fault(kind, own, count) or _column_fault(kind, places, along_k)
        if fault:
            return f"the index is wrong: {fault}"
    # This is asked first, because the grid may come from anywhere: nothing of a wrong size is allocated.
    if sum(stored.values()) != panels * along_k:
        return f"{sum(stored.values())} slabs are stored, the weight has {panels} panels of {along_k}"
    owners = np.concatenate([np.repeat(np.arange(panels), np.diff(own)) for own in pointers])
    times = np.bincount(owners * along_k + np.concatenate(columns), minlength=panels * along_k)
    if (times != 1).any():
        first = int(np.argmax(times != 1))
        where = f"slab {first % along_k} of panel {first // along_k}"
        return f"the index is wrong: {where} is stored {int(times[first])} times, must be once"
    return ""


def split_columns(index: NDArray[Any], panels: int, stored: Sequence[int]) -> list[NDArray[Any]]:
    """Returns the columns of each kind's slabs. stored: numbers of slabs by kind."""
    return np.split(index[len(stored) * (panels + 1) :], np.cumsum(stored[:-1]))


def _pointer_fault(kind: str, pointers: NDArray[np.int64], stored: int) -> str:
    if pointers[0] != 0:
        return f"the {kind} slabs of the first panel begin at {pointers[0]}, must be 0"
    falling = np.flatnonzero(np.diff(pointers) < 0)
    if falling.size:
        at = int(falling[0])
        return f"the {kind} slabs of panel {at} begin at {pointers[at]} and end at {pointers[at + 1]}"
    if pointers[-1] != stored:
        return f"the {kind} slabs of the last panel end at {pointers[-1]}, and {stored} are stored"
    return ""


def _column_fault(kind: str, columns: NDArray[Any], along_k: int) -> str:
    outside = np.flatnonzero((columns < 0) | (columns >= along_k))
    if not outside.size:
        return ""
    at = int(outside[0])
    return f"{kind} slab {at} lies at column {columns[at]}, and K has {along_k} columns of 64"


@dataclass(frozen=True)
class Place:
    """Where the rows of a linear lie among the packed rows.

    panels: those that hold it, in order; half: 0 for a gate and 1 for its up, which take turns of 8 rows in their panels;
    None for a linear that has its panels for itself.
    """

    panels: NDArray[np.int64]
    half: int | None = None

    @property
    def gated(self) -> bool:
        """True for a gate or an up, which has half of each panel."""
        return self.half is not None

    def height(self, panel_rows: int) -> int:
        """Returns the number of its rows in a panel."""
        return panel_rows // (1 + self.gated)

    def inside(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the places in a panel of its rows there, which are given by their numbers among its rows there."""
        return rows if self.half is None else (rows // TURN * 2 + self.half) * TURN + rows % TURN

    def packed(self, rows: int, panel_rows: int) -> NDArray[np.int64]:
        """Returns the packed rows that hold its rows. rows: of the linear."""
        panels, rest = np.divmod(np.arange(rows), self.height(panel_rows))
        return self.panels[panels] * panel_rows + self.inside(rest)


def gated_panels(rows: int, panel_rows: int) -> list[Place]:
    """Returns the places of a gate and of its up. rows: of gate and of up, each, a multiple of TURN."""
    panels = np.arange(-(-2 * rows // panel_rows))
    return [Place(panels, half) for half in range(2)]


def stacked_panels(rows: Sequence[int], panel_rows: int) -> list[Place]:
    """Returns the place of each linear; the linears are stacked. rows: of each linear."""
    ends = np.cumsum([-(-n // panel_rows) for n in rows])
    return [Place(panels) for panels in np.split(np.arange(ends[-1]), ends[:-1])]
