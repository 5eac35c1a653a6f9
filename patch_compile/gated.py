"""Gate and up of a gated linear as one packed linear, panel by panel: gate 0, up 0, gate 1, up 1, …

Both are `[N, K]` and keep their own tile maps and panels; their slabs lie in the order of the 2 P panels, so the index
is that of an ordinary linear of `2 P · panel_rows` rows. The inverse is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.packing import PackedLinear, csr_index

__all__ = ["interleave", "interleave_grids", "separate"]


def interleave(gate: PackedLinear, up: PackedLinear) -> PackedLinear:
    """One packed linear `[2 P · panel_rows, K]`; raises ValueError unless both have the same shape and panels."""
    if (gate.shape, gate.panel_rows) != (up.shape, up.panel_rows):
        raise ValueError(
            f"{gate.shape} in panels of {gate.panel_rows} and {up.shape} in panels of {up.panel_rows} do not pair"
        )
    grid = interleave_grids(gate.slab_is_sparse(), up.slab_is_sparse())
    of_up_dense, of_up_sparse = _of_up(~grid), _of_up(grid)
    return PackedLinear(
        (len(grid) * gate.panel_rows, gate.shape[1]),
        gate.panel_rows,
        _merged(gate.dense, up.dense, of_up_dense),
        _merged(gate.sparse, up.sparse, of_up_sparse),
        _merged(gate.meta, up.meta, of_up_sparse),
        csr_index(grid),
    )


def separate(packed: PackedLinear, rows: int) -> tuple[PackedLinear, PackedLinear]:
    """Gate and up, of `rows` rows each. Raises ValueError when their panels are not those of `rows`."""
    grid = packed.slab_is_sparse()
    if len(grid) != 2 * -(-rows // packed.panel_rows):
        raise ValueError(f"{len(grid)} panels are not those of a gate and an up of {rows} rows")
    gate, up = (_half(packed, grid, rows, which) for which in (False, True))
    return gate, up


def interleave_grids(gate: NDArray[np.bool_], up: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which slabs `[2 P, slabs]` are 2:4, from those `[P, slabs]` of the two."""
    return np.stack((gate, up), axis=1).reshape(-1, gate.shape[1])


def _half(packed: PackedLinear, grid: NDArray[np.bool_], rows: int, up: bool) -> PackedLinear:
    dense, sparse = _of_up(~grid) == up, _of_up(grid) == up
    return PackedLinear(
        (rows, packed.shape[1]),
        packed.panel_rows,
        packed.dense[dense],
        packed.sparse[sparse],
        packed.meta[sparse],
        csr_index(grid[int(up) :: 2]),
    )


def _of_up(slabs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each slab that is marked in `[2 P, slabs]`, in the order of storing, whether it is of the up."""
    return np.equal(np.nonzero(slabs)[0] % 2, 1)


def _merged(gate: NDArray[Any], up: NDArray[Any], of_up: NDArray[np.bool_]) -> NDArray[Any]:
    out = np.empty((len(of_up), gate.shape[1]), gate.dtype)
    out[~of_up], out[of_up] = gate, up
    return out
