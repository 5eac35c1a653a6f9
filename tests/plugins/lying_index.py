"""Indices that lie about their slabs, each in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tests.oracles.element_packing import Packed

Ints = NDArray[np.int64]
_LEAST, _MOST = -(2**31), 2**31 - 1


def _at(values: Ints, place: int | slice, value: int | Ints) -> Ints:
    changed = values.copy()
    changed[place] = value
    return changed


def _random(rng: np.random.Generator, values: Ints, least: int, most: int) -> Ints:
    return rng.integers(least, most, len(values), endpoint=True)


# Pointers [panels + 1] of one kind, of which there are values[-1] slabs.
_POINTERS: dict[str, Callable[[np.random.Generator, Ints], Ints]] = {
    "the first is negative": lambda rng, p: _at(p, 0, -1),
    "the first is late": lambda rng, p: _at(p, 0, p[-1] + 1),
    "all are negative": lambda rng, p: -1 - p,
    "the last is beyond the slabs": lambda rng, p: _at(p, -1, p[-1] + 100),
    "the last is too small": lambda rng, p: _at(p, -1, p[-1] - 2),
    "the last is huge": lambda rng, p: _at(p, -1, _MOST),
    "one is huge": lambda rng, p: _at(p, len(p) // 2, _MOST),
    "one is the least": lambda rng, p: _at(p, len(p) // 2, _LEAST),
    "from the least to the most": lambda rng, p: _at(_at(p, slice(0, None, 2), _LEAST), slice(1, None, 2), _MOST),
    "they fall": lambda rng, p: p[::-1],
    "two exchanged": lambda rng, p: _at(p, slice(1, 3), p[2:0:-1]),
    "all are 0": lambda rng, p: 0 * p,
    "all are the last": lambda rng, p: 0 * p + p[-1],
    "every panel has all slabs": lambda rng, p: _at(0 * p, slice(1, None, 2), p[-1]),
    "twice as large": lambda rng, p: 2 * p,
    "a little beside": lambda rng, p: p + rng.integers(-2, 2, len(p), endpoint=True),
    "random": lambda rng, p: _random(rng, p, _LEAST, _MOST),
    "random near the slabs": lambda rng, p: _random(rng, p, -3, int(p[-1]) + 3),
}  # fmt: skip
# Columns [slabs] of one kind, in units of 64 along K.
_COLUMNS: dict[str, Callable[[np.random.Generator, Ints], Ints]] = {
    "negative": lambda rng, c: -1 - c,
    "the least": lambda rng, c: 0 * c + _LEAST,
    "beyond K": lambda rng, c: c + 5,
    "huge": lambda rng, c: 0 * c + _MOST,
    "64 times it is 2^31": lambda rng, c: c + (1 << 25),
    "64 times it is 2^32": lambda rng, c: c + (1 << 26),
    "64 times it is -2^31": lambda rng, c: c - (1 << 25),
    "random": lambda rng, c: _random(rng, c, _LEAST, _MOST),
    "unsorted": lambda rng, c: c[::-1],
    "all the same": lambda rng, c: 0 * c + 1,
}
LIES = tuple(
    [f"pointers: {name}" for name in _POINTERS]
    + [f"columns: {name}" for name in _COLUMNS]
    + ["everything is 0", "everything is random"]
)


def lying(packed: Packed, lie: str, seed: int = 0) -> Packed:
    """Return the packed weight with an index that lies: about all slabs, or slabs of one kind, which the seed chooses."""
    rng = np.random.default_rng(seed)
    index = packed.index.astype(np.int64)
    if lie == "everything is 0":
        return replace(packed, index=np.zeros_like(packed.index))
    if lie == "everything is random":
        return replace(packed, index=_random(rng, index, _LEAST, _MOST).astype(np.int32))
    where, name = lie.split(": ", 1)
    counts = [packed.counts[kind] for kind in packed.kinds]
    kinds = len(counts)
    pointers = (len(index) - sum(counts)) // kinds
    parts = np.split(index, np.cumsum([*[pointers] * kinds, *counts[:-1]]))
    for number, part in enumerate(parts):
        if (number < kinds) == (where == "pointers") and seed % (kinds + 1) in (0, 1 + number % kinds):
            change = (_POINTERS if where == "pointers" else _COLUMNS)[name]
            parts[number] = change(rng, part) if len(part) else part
    bounded = np.clip(np.concatenate(parts), _LEAST, _MOST)
    return replace(packed, index=bounded.astype(np.int32))
