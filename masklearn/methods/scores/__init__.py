"""Scores of tiles from one pass over a model: what the one-shot methods rank by."""
