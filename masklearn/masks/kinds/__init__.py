"""Kinds of tiles: which weights of a tile may be kept. `table` lists the kinds; `families` has the families."""
