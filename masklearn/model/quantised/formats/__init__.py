"""Formats of quantised checkpoints, one file each. A class registers itself in `masklearn.model.quantised.base`."""
