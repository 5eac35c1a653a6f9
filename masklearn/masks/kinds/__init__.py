"""Kinds of tiles: which weights of a tile may be kept. `table` lists the kinds; each family has a file."""
