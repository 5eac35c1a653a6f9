"""Scores of tiles from one pass over a model: what the one-shot methods rank by. Nothing heavy is imported here."""

__all__ = ["IMPORTANCE"]

# A tile's score in words, where it comes from `importance`.
IMPORTANCE = "squared importance that goes, in units of the linear's mean per weight"
