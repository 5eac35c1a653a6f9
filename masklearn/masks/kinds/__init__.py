"""Kinds of tiles: what may be kept of the weights of a tile. `table` lists them, with one file for each family."""
