"""Chooses the kind of every slab of a linear: the kind of its tiles, or dense.

A slab that touches tiles of different kinds is stored densely, which is always valid. A PatchLinear has tensors of dense and
of 2:4 slabs, and of each further kind that the linear has, in the order of the table of kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, KINDS, TWO_FOUR
from masklearn.quant.table import QUANTISED, WEIGHT_TYPES, WeightType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


SLAB_K = 64
TURN = 8
"""Rows of a gate, and of its up, that follow each other in a panel."""
ALWAYS: tuple[TileKind, ...] = (DENSE, TWO_FOUR)
_MIXED = 255


class Tiled(Protocol):
    """A mask, as far as slabs depend on it: shape, tile size and kinds of tiles."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def tile(self) -> tuple[int, int]: ...
    @property
    def kinds(self) -> NDArray[np.uint8]: ...


def slab_kinds(mask: Tiled, panel_rows: int) -> NDArray[np.uint8]:
    """Returns the code of each slab's kind, `[panels, slabs]`."""
    rows, columns = mask.shape
    by_row = _if_equal(mask.kinds, mask.tile[0], rows, panel_rows, axis=0)
    codes = _if_equal(by_row, mask.tile[1], columns, SLAB_K, axis=1)
    codes[codes == _MIXED] = DENSE.code
    return codes


def take_turns(gate: tuple[int, int], up: tuple[int, int]) -> bool:
    """Returns True if a gate and an up of these shapes `[N, K]` can share panels, in which they take turns of 8 rows."""
    return gate == up and gate[0] % TURN == 0


def joint_codes(codes: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Returns the kinds of slabs that hold rows of several linears: dense where the linears' kinds differ."""
    import numpy as np

    first, *others = codes
    for other in others:
        first = np.where(first == other, first, np.uint8(DENSE.code))
    return first


def kinds_among(codes: Iterable[NDArray[np.uint8]]) -> tuple[TileKind, ...]:
    """Returns the kinds of slabs with tensors of their own, in their order. codes: of the slabs of linears packed
    together."""
    import numpy as np

    there = {int(code) for one in codes for code in np.unique(one)}
    return (*ALWAYS, *(kind for kind in KINDS if kind.code in there and kind not in ALWAYS))


def kinds_from_attribute(text: object) -> tuple[TileKind, ...]:
    """Returns the kinds that the attribute `kinds` of a node names. Raises ValueError for a text that no build writes."""
    names = text.split(",") if isinstance(text, str) else []
    kinds = tuple(kind for kind in KINDS if kind.name in names)
    ordered = (*ALWAYS, *(kind for kind in kinds if kind not in ALWAYS))
    if names != [kind.name for kind in ordered]:
        known = ", ".join(kind.name for kind in KINDS)
        raise ValueError(
            f"its kinds are {str(text)[:40]!r}, not dense,2:4 and others of {known} in this order"
        )
    return ordered


def kernels_have_wide_panels(kinds: Iterable[TileKind], weights: WeightType | None) -> bool:
    """True if kernels have panels of 128 rows, besides 64, for slabs of these kinds; weights: None, or a 16-bit type,
    for 16 bits."""
    if weights is None or not weights.quantised:
        return all(kind in ALWAYS for kind in kinds)
    return not weights.widened


def value_words(kind: TileKind, weights: WeightType, panel_rows: int) -> int:
    """Returns the int32 words of a slab's integers, without scales."""
    return panel_rows * SLAB_K * kind.kept // kind.group * weights.bits // 32


def code_words(kind: TileKind, panel_rows: int) -> int:
    """Returns the int32 words of a slab's metadata or masks."""
    return panel_rows * SLAB_K // kind.group * (kind.family.code_bits if kind.family else 0) // 32


def slab_words(kind: TileKind, weights: WeightType, panel_rows: int) -> int:
    """Returns the int32 words of a slab of integers, including its scales."""
    return value_words(kind, weights, panel_rows) + panel_rows * weights.scale_bits // 32


def weights_from_attribute(text: object) -> WeightType | None:
    """Returns the type of quantised weights that the attribute `weights` of a node names, None for 16 bits, which nodes
    without the attribute have. Raises ValueError for another text."""
    if text is None:
        return None
    if not isinstance(text, str) or text not in WEIGHT_TYPES:
        raise ValueError(f"its weights are {str(text)[:40]!r}, none of {', '.join(WEIGHT_TYPES)}")
    return QUANTISED.get(text)


def numbers_of(codes: NDArray[np.uint8], kinds: Sequence[TileKind]) -> NDArray[np.uint8]:
    """Returns the place of each slab's kind in `kinds`; codes: of slabs, all of them of these kinds."""
    import numpy as np

    places = np.zeros(_MIXED + 1, np.uint8)
    for number, kind in enumerate(kinds):
        places[kind.code] = number
    return places[codes]


def _if_equal(codes: NDArray[np.uint8], tile: int, size: int, step: int, axis: int) -> NDArray[np.uint8]:
    """Returns, for each run of `step` elements along `axis` (of `size` elements), the code that all tiles it touches
    have, or _MIXED."""
    import numpy as np

    starts = np.arange(0, size, step)
    first, last = starts // tile, (np.minimum(starts + step, size) - 1) // tile
    common = codes.take(first, axis=axis)
    for further in range(1, int((last - first).max(initial=0)) + 1):
        touched = codes.take(np.minimum(first + further, last), axis=axis)
        common = np.where(common == touched, common, np.uint8(_MIXED))
    return common


def stacked_rows(rows: Sequence[int], panel_rows: int) -> list[int]:
    """Returns the output rows that each linear takes: whole panels, except for the last linear."""
    return [-(-n // panel_rows) * panel_rows for n in rows[:-1]] + [rows[-1]]
