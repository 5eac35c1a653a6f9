"""Imports published masks as MaskSets. `formats` has a class per format, and `importing` does the work for all of them."""
