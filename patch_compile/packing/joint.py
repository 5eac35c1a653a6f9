"""Linears of one X packed as one: which panels of the whole are whose.

A gate and its up alternate, panel by panel: gate 0, up 0, gate 1, up 1, … Others that share X (q, k and v) lie one below
the other. Each keeps its own tile map, begins at a whole panel, and is padded to whole panels by zero rows; the index is
that of an ordinary linear of all these rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["gated_panels", "stacked_panels", "stacked_rows"]


def gated_panels(rows: int, panel_rows: int) -> list[NDArray[np.int64]]:
    """The panels of a gate, and those of its up, each of `rows` rows."""
    panels = -(-rows // panel_rows)
    return [np.arange(0, 2 * panels, 2), np.arange(1, 2 * panels, 2)]


def stacked_panels(rows: Sequence[int], panel_rows: int) -> list[NDArray[np.int64]]:
    """The panels of each linear, of so many rows, one below the other."""
    ends = np.cumsum([-(-n // panel_rows) for n in rows])
    return np.split(np.arange(ends[-1]), ends[:-1])


def stacked_rows(rows: Sequence[int], panel_rows: int) -> list[int]:
    """Rows of the joint output that each linear takes: whole panels, but for the last."""
    return [-(-n // panel_rows) * panel_rows for n in rows[:-1]] + [rows[-1]]
