"""Formats of quantised checkpoints, a file for each. A class registers itself in `masklearn.model.quantised.base`."""
