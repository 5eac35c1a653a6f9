"""Reads and writes tile sizes such as `128x128` and `128x*`, where `*` stands for all rows or columns of a linear."""

__all__ = ["WHOLE", "parse_tile", "spell_tile"]

WHOLE = 1 << 20  # more rows and columns than any linear has: one ragged tile covers all of them
_GROUP = 4


def parse_tile(text: str) -> tuple[int, int]:
    """Returns (rows, columns) of a tile, with `WHOLE` for `*`. Raises a ValueError of one line if it is no tile."""
    parts = text.lower().split("x")
    sizes = [
        WHOLE if part == "*" else int(part) if part.isascii() and part.isdigit() else 0 for part in parts
    ]
    if len(sizes) != 2 or not all(sizes) or sizes[1] % _GROUP:
        raise ValueError(
            f"{text!r}: a tile is ROWSxCOLS with COLS a multiple of 4, such as 128x128, or 128x* for all columns"
        )
    return sizes[0], sizes[1]


def spell_tile(tile: tuple[int, int]) -> str:
    """Inverse of `parse_tile`."""
    return "x".join("*" if size == WHOLE else str(size) for size in tile)
