"""Assigns the panels of several linears that share X and are packed as one.

The panels of a gate and its up alternate: gate 0, up 0, gate 1, up 1, … Other linears (q, k and v) lie one below the
other. Each linear keeps its own tile map, begins at a panel and is padded with zero rows to whole panels. The index is
that of an ordinary linear with all these rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["gated_panels", "stacked_panels", "stacked_rows"]


def gated_panels(rows: int, panel_rows: int) -> list[NDArray[np.int64]]:
    """Returns the panels of a gate and of its up. rows: of each of the two."""
    import numpy as np

    panels = -(-rows // panel_rows)
    return [np.arange(0, 2 * panels, 2), np.arange(1, 2 * panels, 2)]


def stacked_panels(rows: Sequence[int], panel_rows: int) -> list[NDArray[np.int64]]:
    """Returns the panels of each linear, one linear below the other. rows: of each linear."""
    import numpy as np

    ends = np.cumsum([-(-n // panel_rows) for n in rows])
    return np.split(np.arange(ends[-1]), ends[:-1])


def stacked_rows(rows: Sequence[int], panel_rows: int) -> list[int]:
    """Returns the output rows that each linear takes: whole panels, except for the last linear."""
    return [-(-n // panel_rows) * panel_rows for n in rows[:-1]] + [rows[-1]]
