"""PTX instructions that multiply matrices in a warp's registers (PTX ISA 9.7.14): mma and mma.sp.

Fragments follow the ISA's figures: groupID is lane / 4, threadID_in_group is lane % 4. A register holds a word of two
values of 16 bits or of four values of 8 bits, and words of both lie at the same places.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.ptx.memory import Array
from tests.ptx.parser import Operand, PtxFault
from tests.ptx.state import Instructions, Mask, State, Step

PRODUCTS = Instructions()

Operands = tuple[Operand, ...]
Match = re.Match[str]
Index = NDArray[np.intp]

_LANE = np.arange(32)
_GROUP, _THREAD = _LANE // 4, _LANE % 4


def _fragment(rows: int, columns: int, places: Sequence[tuple[Index, Index]]) -> Index:
    """Index of the value [lane, i] that holds each element [rows, columns]; places: (row, column) of value i by lane."""
    index = np.full((rows, columns), -1)
    for i, (row, column) in enumerate(places):
        index[row, column] = _LANE * len(places) + i
    assert (index >= 0).all()
    return index


def _a(word: int, depth: int) -> Index:
    """Places of a0, a1, ... in [16, depth]: a word of each row half, then both again 4 * word columns on.

    The kept values of a sparse A have this layout too: of the `2 * word` columns that the figures give a word, the chunks
    of four that hold them, half are kept.
    """
    places = [
        (_GROUP + 8 * (i // word % 2), word * _THREAD + i % word + 4 * word * (i // (2 * word)))
        for i in range(depth // 2)
    ]
    return _fragment(16, depth, places)


def _b(word: int, depth: int) -> Index:
    """Places of b0, b1, ...: a word of rows of every 4 * word rows, column groupID."""
    places = [(word * _THREAD + i % word + 4 * word * (i // word), _GROUP) for i in range(depth // 4)]
    return _fragment(depth, 8, places)


_C = [(_GROUP + 8 * (i // 2), 2 * _THREAD + i % 2) for i in range(4)]


@dataclass(frozen=True)
class _Form:
    """Layout of a type's operands. lanes, shifts: lane and first bit of each chunk's metadata, [row, chunk of four]."""

    word: int  # values of a register
    depth: int  # columns of a dense A; a sparse A has twice as many
    sums: str
    selectors: int
    lanes: Index
    shifts: NDArray[np.uint32]

    @property
    def registers(self) -> int:
        """Registers of A, and of the B of a sparse A."""
        return self.depth // (2 * self.word)


_ROW, _CHUNK = np.arange(16)[:, None], np.arange(16)
# 16 bits: the selector names the lower or upper pair of every four lanes; its first lane has columns 0..15, its second
# 16..31; the low half word is row groupID, the high one + 8.
_SIXTEEN = _Form(
    2,
    16,
    "f32",
    2,
    4 * (_ROW % 8) + _CHUNK[:8] // 4,
    (16 * (_ROW // 8) + 4 * (_CHUNK[:8] % 4)).astype(np.uint32),
)
# 8 bits: every lane gives a word of 32 columns of one row; even lanes row groupID, odd ones + 8; the first two lanes of
# four have columns 0..31, the others 32..63. So say the figures of 9.7.14.6.2.7 for "columns 0-31" and "columns 32-63",
# and CUTLASS: ELayout of SM80_SPARSE_16x8x64_S32S8S8S32_TN in cute/atom, and reorder_meta of util/host_reorder.h, which
# torch.sparse copies.
_EIGHT = _Form(
    4, 32, "s32", 1, 4 * (_ROW % 8) + _ROW // 8 + 2 * (_CHUNK // 8),
    np.broadcast_to(4 * (_CHUNK % 8), (16, 16)).astype(np.uint32),
)  # fmt: skip
# A sparse A of 32 columns of 8 bits: the selector names the lower or upper pair of every four lanes, and a word of the pair
# has all columns of a row (9.7.14.6.2.5, ELayout of SM80_SPARSE_16x8x32_S32S8S8S32_TN).
_SHALLOW_EIGHT = _Form(4, 16, "s32", 2, _EIGHT.lanes[:, :8], _EIGHT.shifts[:, :8])
_FORMS = {"f16": _SIXTEEN, "bf16": _SIXTEEN, "s8": _EIGHT}


def _elements(state: State, registers: list[Array], kind: str, fragment: Index) -> Array:
    """Matrices [warp, rows, columns] in float64 of 32-bit registers."""
    words = np.stack(registers, -1)
    if kind == "s8":
        return words.view(np.int8).reshape(state.threads // 32, -1)[:, fragment].astype(np.float64)
    picked = words.view(np.uint16).reshape(state.threads // 32, -1)[:, fragment]
    if kind == "f16":
        return picked.view(np.float16).astype(np.float64)
    return (picked.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _registers(state: State, operand: Operand, count: int, kind: str) -> list[Array]:
    if not isinstance(operand, tuple) or len(operand) != count:
        raise PtxFault(f"{count} registers are expected: {operand}")
    return [state.source(register, kind) for register in operand]


def _accumulate(state: State, operands: Operands, sums: str, product: Callable[[Mask], Array]) -> Step:
    """d = product + c. Sums of f32 are exact and rounded once, and the ISA asks for at least single precision.

    Sums of s32 wrap, as they do without .satfinite.
    """
    outs = [state.target(register, sums) for register in operands[0]]
    addends = _registers(state, operands[3], len(_C), sums)
    if len(outs) != len(_C):
        raise PtxFault(f"{len(_C)} registers are expected: {operands[0]}")

    def step(mask: Mask) -> None:
        exact = product(mask)  # float64 holds the products of 8-bit values exactly
        exact = exact.astype(np.int64) if sums == "s32" else exact
        values = [
            (exact[:, row, column].reshape(-1) + c).astype(out.dtype)
            for (row, column), c, out in zip(_C, addends, outs, strict=True)
        ]
        for out, value in zip(outs, values, strict=True):
            np.copyto(out, value, where=mask)

    return step


@PRODUCTS.define(
    r"mma\.sync\.aligned\.m16n8k(16|32)\.row\.col\.(f32|s32)\.(?P<kind>f16|bf16|s8)\.(?P=kind)\.\2"
)
def _mma(state: State, match: Match, operands: Operands) -> Step:
    form, kind = _form_of(match, sparse=False), match["kind"]
    a, b = _registers(state, operands[1], 4, "b32"), _registers(state, operands[2], 2, "b32")
    of_a, of_b = _a(form.word, form.depth), _b(form.word, form.depth)
    return _accumulate(
        state,
        operands,
        form.sums,
        lambda _: _elements(state, a, kind, of_a) @ _elements(state, b, kind, of_b),
    )


@PRODUCTS.define(
    r"mma\.sp::ordered_metadata\.sync\.aligned\.m16n8k(32|64)\.row\.col\.(f32|s32)\.(?P<kind>f16|bf16|s8)\.(?P=kind)\.\2"
)
def _sparse_mma(state: State, match: Match, operands: Operands) -> Step:
    form, kind = _form_of(match, sparse=True), match["kind"]
    a, b = (_registers(state, operand, form.registers, "b32") for operand in operands[1:3])
    of_a, of_b = _a(form.word, form.depth), _b(form.word, 2 * form.depth)
    metadata, selector = state.source(operands[4], "b32"), int(str(operands[5]), 0)
    if selector not in range(form.selectors):
        raise PtxFault(f"{selector} is no selector of this product")
    warps = state.threads // 32
    chunks, lanes = np.arange(0, 2 * form.depth, 4), form.lanes + 2 * selector

    def product(mask: Mask) -> Array:
        nibbles = metadata.reshape(warps, 32)[:, lanes] >> form.shifts & np.uint32(15)
        first, second = (nibbles & np.uint32(3)).astype(np.intp), (nibbles >> np.uint32(2)).astype(np.intp)
        executing = state.active(mask)[::32]
        if (first >= second)[executing].any():
            raise PtxFault("metadata is not in ascending order")
        columns = np.stack([chunks + first, chunks + second], -1).reshape(warps, 16, form.depth)
        # A row of B that no metadata names is not multiplied, so a NaN in it goes nowhere.
        named = _elements(state, b, kind, of_b)[np.arange(warps)[:, None, None], columns]
        return (_elements(state, a, kind, of_a)[:, :, None] @ named)[:, :, 0]

    return _accumulate(state, operands, form.sums, product)


def _form_of(match: Match, *, sparse: bool) -> _Form:
    form = _FORMS[match["kind"]]
    if sparse and form is _EIGHT and int(match[1]) == 2 * _SHALLOW_EIGHT.depth:
        form = _SHALLOW_EIGHT
    if int(match[1]) != form.depth * (1 + sparse) or match[2] != form.sums:
        raise PtxFault("there is no product of this shape or with these sums")
    return form
