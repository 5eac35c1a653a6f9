"""Checks the index that tells for each column which group of scales it has (`g_idx`)."""

import numpy as np

from masklearn.model.quantised.errors import damaged, refused
from masklearn.model.quantised.stored import StoredTensors

__all__ = ["check_in_order"]


def check_in_order(stored: StoredTensors, name: str, columns: int, groups: int) -> None:
    """Check that neighbours share their scales.

    Raises MaskLearnError if the index is damaged, and for columns that were put into groups by their activations
    (`desc_act`, act-order), of which no grid of a mosaic is made.
    """
    stored.need(name, ("I32", "I64"), (columns,))
    index = stored.read(name)
    if columns and not (int(index.min()) >= 0 and int(index.max()) < groups):
        raise damaged(stored.folder, name, f"It names a group that is not one of {groups}.")
    if not np.array_equal(index, np.arange(columns) // (columns // groups)):
        raise refused(
            stored.folder,
            name,
            "Its columns are grouped by their activations (desc_act, act-order); neighbours in order are read.",
        )
