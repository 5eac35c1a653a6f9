"""Tile scores of the one-shot methods, from one pass over a model. This module imports no heavy package."""

__all__ = ["IMPORTANCE"]

# Unit of the tile scores of `scores.importance`, in words.
IMPORTANCE = "importance of the pruned weights, in units of the linear's mean per weight"
