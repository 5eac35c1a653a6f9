"""Packs a weight and its hybrid mask into the tensors of PatchLinear, and unpacks them exactly.

A linear `W: [N, K]` is cut into panels of `panel_rows` output rows, and a panel into slabs of 64 along K. N and K are
zero-padded to whole slabs here and nowhere else. A slab is stored as 2:4 (two kept values and two 2-bit positions per
group of four), as n:16 (n kept values and a mask per group of 16) or, with int8 inputs, as 6:8 (two slabs of 2:4 that are
added) if all its weights lie in tiles of that kind. Any other slab is stored densely, with pruned weights as +0.

The values of a slab are in the order in which the lanes of a warp hold them as operand A of the tensor-core
instruction, so that a lane's fragment is a single 16-byte load. With lane = 4 g + t:

    dense  [k16: 4][row block: PR/16][g: 8][t: 4][k half: 2][row half: 2][pair: 2]    mma.m16n8k16
    sparse [k32: 2][row block: PR/16][g: 8][t: 4][k half: 2][row half: 2][pair: 2]    mma.sp.m16n8k32, kept values
    meta   [row block: PR/16][g: 8][t: 4]   low half word: row g, high: row g + 8; 16 columns each, a nibble a group

(PTX ISA 9.7.14.5.8 and 9.7.14.6.2.2, figures 120-122.) A pair of neighbouring 16-bit values moves as a 32-bit word. `n16`
describes slabs of n:16, `six_eight` slabs of 6:8, and `integers` slabs of quantised weights, which `quantised` packs.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import FAMILIES
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.tiles import expand_tiles
from masklearn.quant.table import FLOAT16, WeightType
from patch_compile.packing.index import Place, csr_index, index_fault, split_columns
from patch_compile.packing.slab_kinds import (
    ALWAYS,
    SLAB_K,
    Tiled,
    code_words,
    joint_codes,
    kernels_have_wide_panels,
    kinds_among,
    numbers_of,
    slab_kinds,
)

_WIDE_PANEL, NARROW_PANEL = 128, 64
_OF_EIGHT = FAMILIES["6:8"]
KERNEL_ROWS = NARROW_PANEL
"""Rows of a panel where the kernels have no others, see `slab_kinds.kernels_have_wide_panels`."""


@dataclass(frozen=True)
class OtherSlabs:
    """Slabs of one kind that is not in every weight. values: uint16 `[slabs, PR·64·kept/group]`, raw bits, or int32 words of
    integers; codes: int32 words, the masks of n:16, `[slabs, PR·2]`, or the metadata of 6:8, `[slabs, PR·3]`."""

    kind: TileKind
    values: NDArray[Any]
    codes: NDArray[np.int32]


@dataclass(frozen=True)
class PackedLinear:
    """Packed tensors of one linear; 16-bit values are raw bits.

    dense: uint16 `[nD, PR·64]`; sparse: uint16 `[nS, PR·32]`; meta: int32 `[nS, PR·2]`; index: int32 as in
    `packing/index.py`, of P = ceil(N/PR) panels; others: slabs of the weight's further kinds, in the order of the index.

    weights: a quantised type, None for 16-bit values. Dense and sparse slabs of integers are int32 words `[slabs, words]`,
    see `packing/integers.py`; scales: fp32 `[P·PR]`, only of types with a scale per row.
    """

    shape: tuple[int, int]
    panel_rows: int
    dense: NDArray[Any]
    sparse: NDArray[Any]
    meta: NDArray[np.int32]
    index: NDArray[np.int32]
    others: tuple[OtherSlabs, ...] = ()
    weights: WeightType | None = None
    scales: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        return self.index.nbytes + sum(tensor.nbytes for tensor in self.tensors)

    @property
    def tensors(self) -> tuple[NDArray[Any], ...]:
        """The tensors of the slabs, and the scales of rows, in the order of `function.tensor_names`."""
        others = (array for one in self.others for array in (one.values, one.codes))
        scales = () if self.scales is None else (self.scales,)
        return (self.dense, self.sparse, self.meta, *others, *scales)

    @property
    def kinds(self) -> tuple[TileKind, ...]:
        """The kinds of slabs that have tensors, in the order of the index."""
        return (*ALWAYS, *(one.kind for one in self.others))

    @property
    def stored(self) -> dict[str, int]:
        counts = (len(self.dense), len(self.sparse), *(len(one.values) for one in self.others))
        return {kind.name: count for kind, count in zip(self.kinds, counts, strict=True)}

    def places(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Returns two grids `[panels, slabs along K]`: the place of the slab's kind in `kinds`, and the slab's row in the
        tensors of that kind.

        Raises ValueError if the index leads to no slab, or if a slab is stored twice or not at all.
        """
        panels, slabs_along_k = _grid(self.shape, self.panel_rows)
        stored = self.stored
        if fault := index_fault(self.index, (panels, slabs_along_k), stored):
            raise ValueError(fault)
        numbers = np.zeros((panels, slabs_along_k), np.uint8)
        slots = np.zeros((panels, slabs_along_k), np.int64)
        pointers = self.index[: len(stored) * (panels + 1)].reshape(len(stored), -1)
        for number, columns in enumerate(split_columns(self.index, panels, list(stored.values()))):
            at = np.repeat(np.arange(panels), np.diff(pointers[number])), columns
            numbers[at] = number
            slots[at] = np.arange(len(columns))
        return numbers, slots


def choose_panel_rows(
    shape: tuple[int, int],
    tile: tuple[int, int],
    kinds: Iterable[TileKind] = ALWAYS,
    weights: WeightType | None = None,
) -> int:
    """Returns the rows of a linear's panels, the most of `panel_heights`."""
    return panel_heights(shape, tile, kinds, weights)[0]


def panel_heights(
    shape: tuple[int, int],
    tile: tuple[int, int],
    kinds: Iterable[TileKind] = ALWAYS,
    weights: WeightType | None = None,
    *,
    gated: bool = False,
) -> tuple[int, ...]:
    """Returns the heights that a linear's panels may have: 128 rows, unless they split tiles or add over 5 % of padding; 64.

    Panels that split tiles could be half sparse and would be stored densely. kinds: of the linear's tiles; weights: None for
    16 bits; gated: True for a gate or an up `[N, K]`, which has half of a panel's rows.
    """
    wide, narrow = (rows // (1 + gated) for rows in (_WIDE_PANEL, NARROW_PANEL))
    whole = tile[0] % wide == 0 or tile[0] >= shape[0]
    padded, least = (-(-shape[0] // rows) * rows for rows in (wide, narrow))
    if kernels_have_wide_panels(kinds, weights) and whole and padded <= least * 1.05:
        return _WIDE_PANEL, NARROW_PANEL
    return (NARROW_PANEL,)


def pack(weight: NDArray[np.uint16], mask: LinearMask, panel_rows: int) -> PackedLinear:
    """Pack the bits of a 16-bit weight `[N, K]` under its hybrid mask.

    Raises ValueError if weight and mask differ in shape.
    """
    panels = _grid(mask.shape, panel_rows)[0]
    packed = pack_together([(weight, mask)], panel_rows, [Place(np.arange(panels))])
    return replace(packed, shape=mask.shape)


def pack_together(
    linears: Sequence[tuple[NDArray[np.uint16], LinearMask]],
    panel_rows: int,
    places: Sequence[Place],
    weights: WeightType | None = None,
) -> PackedLinear:
    """Pack linears of equal K as a single linear `[all panels · panel_rows, K]`.

    linears: weight and mask of each; places: of each linear; weights: None for 16 bits, else the type of the integers, which
    are given and packed as 16-bit values.

    Raises ValueError if a weight and its mask differ in shape, if the linears differ in K, and for kinds of slabs that the
    kernels do not have.
    """
    from patch_compile.packing import slabs
    from patch_compile.packing.n16 import pack_panel_of_sixteen
    from patch_compile.packing.six_eight import pack_panel_of_eight

    for weight, mask in linears:
        if weight.shape != mask.shape:
            raise ValueError(f"weight {weight.shape} and mask {mask.shape} differ")
        if mask.shape[1] != linears[0][1].shape[1]:
            raise ValueError(
                f"linears of K = {linears[0][1].shape[1]} and {mask.shape[1]} can't be packed together"
            )
    codes = codes_together([mask for _, mask in linears], places, panel_rows)
    kinds = kinds_among([codes])
    if unfit := [kind for kind in kinds if not kind.goes_with(weights or FLOAT16)]:
        raise ValueError(f"{weights or '16-bit'} weights have no slabs of {unfit[0]}")
    numbers = numbers_of(codes, kinds)
    slots = _slots(numbers)
    counts = np.bincount(numbers.ravel(), minlength=len(kinds))
    packed = PackedLinear(
        (len(codes) * panel_rows, linears[0][1].shape[1]),
        panel_rows,
        np.zeros((counts[0], panel_rows * SLAB_K), np.uint16),
        np.zeros((counts[1], panel_rows * SLAB_K // 2), np.uint16),
        np.zeros((counts[1], panel_rows * 2), np.int32),
        csr_index(numbers, len(kinds)),
        tuple(
            OtherSlabs(
                kind,
                np.zeros((count, panel_rows * SLAB_K // kind.group * kind.kept), np.uint16),
                np.zeros((count, code_words(kind, panel_rows)), np.int32),
            )
            for kind, count in zip(kinds[len(ALWAYS) :], counts[len(ALWAYS) :], strict=True)
        ),
    )
    stored = _words(packed)
    sharing = [(part, mask, place) for (part, mask), place in zip(linears, places, strict=True)]

    def pack_one(part: Panel, panel: int) -> None:
        slabs.pack_panel(part.words, part.codes, numbers[panel], slots[panel], *stored)
        for number, one in enumerate(packed.others, len(ALWAYS)):
            where = numbers[panel] == number, slots[panel]
            tensors = one.values, one.codes.view(np.uint32)
            if one.kind.family is _OF_EIGHT:
                pack_panel_of_eight(part.weight, part.eights, *where, *tensors)
            else:
                pack_panel_of_sixteen(part.weight, part.masks, *where, *tensors)

    if places[0].gated:
        _in_threads(_GatedPanels(sharing, panel_rows), places[0].panels, pack_one)
    else:
        for weight, mask, place in sharing:
            for_each_panel(weight, mask, panel_rows, place, pack_one)
    return packed


def codes_together(masks: Sequence[Tiled], places: Sequence[Place], panel_rows: int) -> NDArray[np.uint8]:
    """Returns the kinds of the slabs of linears packed together, `[panels, slabs]`.

    A slab of a gate and its up has the kind of both, or is dense.
    """
    codes = [slab_kinds(mask, place.height(panel_rows)) for mask, place in zip(masks, places, strict=True)]
    if places[0].gated:
        return joint_codes(codes)
    together = np.concatenate(codes)
    together[np.concatenate([place.panels for place in places])] = np.concatenate(codes)
    return together


def unpack(packed: PackedLinear) -> NDArray[np.uint16]:
    """Returns the bits of `W∘M: [N, K]`: the exact inverse of `pack`. Raises ValueError for invalid index or metadata."""
    rows, columns = packed.shape
    words = np.empty((rows, columns // 2), np.uint32)
    numbers, slots = packed.places()
    for panel in range(len(numbers)):
        own = slice(panel * packed.panel_rows, (panel + 1) * packed.panel_rows)
        unpack_panel(packed, numbers[panel], slots[panel], words[own])
    return words.view(np.uint16)


def count_wrong(packed: PackedLinear, weight: NDArray[np.uint16], mask: LinearMask, place: Place) -> int:
    """Returns the number of weights of a linear whose decoded bits differ from `W∘M`.

    place: where `packed` holds the linear. Raises ValueError for an invalid index or metadata.
    """
    from patch_compile.packing import slabs

    numbers, slots = packed.places()
    wrong = np.zeros(len(numbers), np.int64)

    def count_one(part: Panel, panel: int) -> None:
        decoded = rows_of_panel(packed, numbers[panel], slots[panel], part, place)
        wrong[panel] = slabs.count_differences(decoded, part.words, part.codes)

    for_each_panel(weight, mask, packed.panel_rows, place, count_one)
    return int(wrong.sum())


def rows_of_panel(
    packed: PackedLinear,
    numbers: NDArray[np.uint8],
    slots: NDArray[np.int64],
    part: Panel,
    place: Place,
) -> NDArray[np.uint32]:
    """Returns the 16-bit values `[rows, K/2]` of the rows of a linear in a panel; numbers, slots: see `unpack_panel`."""
    rows = place.inside(np.arange(len(part.weight)))
    decoded = np.empty((int(rows[-1]) + 1, part.words.shape[1]), np.uint32)
    unpack_panel(packed, numbers, slots, decoded)
    return decoded[rows] if place.gated else decoded


def unpack_panel(
    packed: PackedLinear, numbers: NDArray[np.uint8], slots: NDArray[np.int64], words: NDArray[np.uint32]
) -> None:
    """Fill `words` `[rows, K/2]` with the 16-bit values of a panel; numbers, slots: see `places`, for the panel's slabs.

    Raises ValueError for invalid metadata.
    """
    from patch_compile.packing import slabs

    if slabs.unpack_panel(words, numbers, slots, *_words(packed)) == slabs.BAD_METADATA:
        raise ValueError("metadata holds a pair of positions that is not ascending")
    if not packed.others:
        return
    from patch_compile.packing.n16 import unpack_panel_of_sixteen
    from patch_compile.packing.six_eight import unpack_panel_of_eight

    for number, one in enumerate(packed.others, len(ALWAYS)):
        unpack_one = unpack_panel_of_eight if one.kind.family is _OF_EIGHT else unpack_panel_of_sixteen
        stored = one.values, one.codes.view(np.uint32)
        if not unpack_one(words.view(np.uint16), numbers == number, slots, *stored):
            raise ValueError(f"a group of the {one.kind} slabs does not keep {one.kind.kept} weights")


def _words(packed: PackedLinear) -> tuple[NDArray[np.uint32], ...]:
    return packed.dense.view(np.uint32), packed.sparse.view(np.uint32), packed.meta.view(np.uint32)


@dataclass(frozen=True)
class Panel:
    """Rows of a linear. weight: bits `[rows, K]`, where all kinds but 2:4 are masked already; codes: of the groups of 2:4,
    `[rows, K/4]`; masks, eights: of the groups of n:16 and of 6:8, `[rows, K/16]` and `[rows, K/8]`, all bits where nothing
    is pruned."""

    weight: NDArray[np.uint16]
    codes: NDArray[np.uint8]
    masks: NDArray[np.uint16]
    eights: NDArray[np.uint8]

    @property
    def words(self) -> NDArray[np.uint32]:
        """The bits of two neighbouring weights a word, `[rows, K/2]`."""
        return self.weight.view(np.uint32)


class _Panels:
    """The rows of a linear, a panel's share at a time."""

    def __init__(self, weight: NDArray[np.uint16], mask: LinearMask, height: int) -> None:
        self._bits, self._mask, self._height = np.ascontiguousarray(weight), mask, height
        self._covered = expand_tiles(mask.tiles, mask.shape, mask.tile)
        self._starts = np.concatenate([[0], np.cumsum(self._covered.sum(axis=1))])
        self._masks, self._eights = mask.masks_of_sixteen(), mask.masks_of_eight()

    def __call__(self, number: int) -> Panel:
        from patch_compile.packing import slabs
        from patch_compile.packing.n16 import masked_of_sixteen

        rows = slice(number * self._height, (number + 1) * self._height)
        codes = slabs.panel_codes(self._mask.pattern, self._covered[rows], self._starts[rows])
        own = self._bits[rows]
        if self._mask.mask16.size:
            own = masked_of_sixteen(own, self._masks[rows])
        if self._mask.mask8.size:
            own = own * _OF_EIGHT.keep(self._eights[rows])
        return Panel(own, codes, self._masks[rows], self._eights[rows])


class _GatedPanels:
    """The packed rows of a gate and its up, a panel at a time. sharing: weight, mask and place of each."""

    def __init__(
        self, sharing: Sequence[tuple[NDArray[np.uint16], LinearMask, Place]], panel_rows: int
    ) -> None:
        self._panels = [_Panels(weight, mask, place.height(panel_rows)) for weight, mask, place in sharing]
        self._places = [place for *_, place in sharing]

    def __call__(self, number: int) -> Panel:
        parts = [panels(number) for panels in self._panels]
        rows = np.concatenate(
            [p.inside(np.arange(len(one.weight))) for p, one in zip(self._places, parts, strict=True)]
        )
        whole = Panel(*(np.concatenate(arrays) for arrays in zip(*map(_arrays, parts), strict=True)))
        order = np.argsort(rows)
        return Panel(*(array[order] for array in _arrays(whole)))


def _arrays(panel: Panel) -> tuple[NDArray[Any], ...]:
    return panel.weight, panel.codes, panel.masks, panel.eights


def for_each_panel(
    weight: NDArray[np.uint16],
    mask: LinearMask,
    panel_rows: int,
    place: Place,
    work: Callable[[Panel, int], None],
) -> None:
    """Call `work(rows of the linear, number of the panel in the whole)` for each panel that holds a linear."""
    _in_threads(_Panels(weight, mask, place.height(panel_rows)), place.panels, work)


def _in_threads(
    part: Callable[[int], Panel], panels: NDArray[np.int64], work: Callable[[Panel, int], None]
) -> None:
    """Call `work(part(n), panels[n])` for each n, in threads on all cores. Threads suffice: the loops of `slabs` release
    Python's global lock.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        deque(pool.map(lambda n: work(part(n), int(panels[n])), range(len(panels))), maxlen=0)


def _slots(numbers: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns the place of each slab `[panels, slabs]` among the slabs of its kind."""
    slots = np.zeros(numbers.shape, np.int64)
    for number in np.unique(numbers):
        chosen = numbers == number
        slots[chosen] = np.arange(chosen.sum())
    return slots


def _grid(shape: tuple[int, int], panel_rows: int) -> tuple[int, int]:
    return -(-shape[0] // panel_rows), -(-shape[1] // SLAB_K)
