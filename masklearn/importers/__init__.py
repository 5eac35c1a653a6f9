"""Published masks to MaskSets: a class for each format in `formats`, and `importing` that is the same for all."""
