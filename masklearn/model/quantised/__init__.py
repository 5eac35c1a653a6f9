"""Quantised checkpoints: the linears' weights are stored as integers and scales. `formats` has a class per format."""
