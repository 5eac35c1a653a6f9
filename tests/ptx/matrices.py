"""PTX instructions that a warp executes together (PTX ISA 9.7.13, 9.7.14): votes, shuffles, matrices, products.

Fragments follow the ISA's figures: groupID is lane / 4, threadID_in_group is lane % 4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.ptx.memory import Array
from tests.ptx.parser import Operand, PtxFault
from tests.ptx.state import Instructions, Mask, State, Step

MATRICES = Instructions()

Operands = tuple[Operand, ...]
Match = re.Match[str]
Index = NDArray[np.intp]

_LANE = np.arange(32)
_GROUP, _THREAD = _LANE // 4, _LANE % 4
_WHOLE_WARP = 0xFFFFFFFF


def _row(i: int) -> Index:
    """Row of accumulator i in every lane: groupID for c0 and c1, groupID + 8 for c2 and c3."""
    return _GROUP + 8 * (i // 2)


def _fragment(rows: int, columns: int, places: Sequence[tuple[Index, Index]]) -> Index:
    """Index of the value [lane, i] that holds each element [rows, columns]; places: (row, column) of value i by lane."""
    index = np.full((rows, columns), -1)
    for i, (row, column) in enumerate(places):
        index[row, column] = _LANE * len(places) + i
    assert (index >= 0).all()
    return index


# a0..a7 of m16n8k16: rows groupID for a0, a1, a4, a5, else groupID + 8; columns 2t, 2t+1, from a4 on 8 more.  The
# kept values of m16n8k32 have this layout too: columns 4t .. 4t+3 of its figure are chunk t, of which two are kept.
_A = _fragment(16, 16, [(_GROUP + 8 * (i // 2 % 2), 2 * _THREAD + i % 2 + 8 * (i // 4)) for i in range(8)])
_C = [(_row(i), 2 * _THREAD + i % 2) for i in range(4)]
# Metadata of m16n8k32: the selector names the lower or upper pair of every four lanes; its first lane has columns
# 0..15, its second 16..31, four bits for each chunk of four; the low half word is row groupID, the high one + 8.
_CHUNK_LANE = 4 * (np.arange(16)[:, None] % 8) + np.arange(8) // 4
_CHUNK_SHIFT = (16 * (np.arange(16)[:, None] // 8) + 4 * (np.arange(8) % 4)).astype(np.uint32)


def _b(depth: int) -> Index:
    """Places of b0, b1, ...: rows 2t, 2t+1 of every eight, column groupID."""
    places = [(2 * _THREAD + i % 2 + 8 * (i // 2), _GROUP) for i in range(depth // 4)]
    return _fragment(depth, 8, places)


_B = {16: _b(16), 32: _b(32)}


def _elements(state: State, registers: list[Array], kind: str, fragment: Index) -> Array:
    """Matrices [warp, rows, columns] in float64 of 32-bit registers that hold pairs of 16-bit values."""
    bits = np.stack(registers, -1).view(np.uint16).reshape(state.threads // 32, -1)
    picked = bits[:, fragment]
    if kind == "f16":
        return picked.view(np.float16).astype(np.float64)
    return (picked.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _registers(state: State, operand: Operand, count: int, kind: str) -> list[Array]:
    if not isinstance(operand, tuple) or len(operand) != count:
        raise PtxFault(f"{count} registers are expected: {operand}")
    return [state.source(register, kind) for register in operand]


def _accumulate(state: State, operands: Operands, product: Any) -> Step:
    """d = product + c, summed exactly and rounded once; the ISA asks for at least single precision."""
    outs = [state.target(register, "f32") for register in operands[0]]
    addends = _registers(state, operands[3], len(outs), "f32")

    def step(mask: Mask) -> None:
        exact = product(mask)
        values = [
            (exact[:, row, column].reshape(-1) + c).astype(np.float32)
            for (row, column), c in zip(_C, addends, strict=True)
        ]
        for out, value in zip(outs, values, strict=True):
            np.copyto(out, value, where=mask)

    return step


@MATRICES.define(r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.(f16|bf16)\.\1\.f32")
def _mma(state: State, match: Match, operands: Operands) -> Step:
    a, b = _registers(state, operands[1], 4, "b32"), _registers(state, operands[2], 2, "b32")
    kind = match[1]
    return _accumulate(
        state, operands, lambda _: _elements(state, a, kind, _A) @ _elements(state, b, kind, _B[16])
    )


@MATRICES.define(r"mma\.sp::ordered_metadata\.sync\.aligned\.m16n8k32\.row\.col\.f32\.(f16|bf16)\.\1\.f32")
def _sparse_mma(state: State, match: Match, operands: Operands) -> Step:
    a, b = _registers(state, operands[1], 4, "b32"), _registers(state, operands[2], 4, "b32")
    kind, metadata, selector = match[1], state.source(operands[4], "b32"), int(str(operands[5]))
    if selector not in (0, 1):
        raise PtxFault("m16n8k32 has the selectors 0 and 1")
    warps = state.threads // 32
    chunks, lanes = np.arange(0, 32, 4), _CHUNK_LANE + 2 * selector

    def product(mask: Mask) -> Array:
        nibbles = metadata.reshape(warps, 32)[:, lanes] >> _CHUNK_SHIFT & np.uint32(15)
        first, second = (nibbles & np.uint32(3)).astype(np.intp), (nibbles >> np.uint32(2)).astype(np.intp)
        executing = state.active(mask)[::32]
        if (first >= second)[executing].any():
            raise PtxFault("metadata is not in ascending order")
        columns = np.stack([chunks + first, chunks + second], -1).reshape(warps, 16, 16)
        # A row of B that no metadata names is not multiplied, so a NaN in it goes nowhere.
        named = _elements(state, b, kind, _B[32])[np.arange(warps)[:, None, None], columns]
        return (_elements(state, a, kind, _A)[:, :, None] @ named)[:, :, 0]

    return _accumulate(state, operands, product)


@MATRICES.define(r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared\.b16")
def _ldmatrix(state: State, match: Match, operands: Operands) -> Step:
    """ldmatrix: lanes 8j .. 8j+7 address the rows of matrix j; a lane gets row groupID, columns 2t, 2t+1."""
    count, transposed = int(match[1]), bool(match[2])
    address = state.address(operands[1])
    targets = operands[0] if isinstance(operands[0], tuple) else (operands[0],)
    if len(targets) != count:
        raise PtxFault(f"{count} registers are expected")
    outs = [state.target(register, "b32") for register in targets]

    def step(mask: Mask) -> None:
        active = state.active(mask)
        rows = np.zeros((state.threads, 8), np.uint16)
        named = active & (np.arange(state.threads) % 32 < 8 * count)
        rows[named] = state.shared.load(address()[named], np.dtype(np.uint16), 8)
        matrices = rows.reshape(-1, 4, 8, 8)
        for j, out in enumerate(outs):
            np.copyto(out, _spread(matrices[:, j], transposed), where=mask)

    return step


def _spread(matrices: Array, transposed: bool) -> Array:
    """Put 16-bit values [warp, 8, 8] into one register per lane."""
    if transposed:
        matrices = matrices.transpose(0, 2, 1)
    return np.ascontiguousarray(matrices).view(np.uint32).reshape(-1)


@MATRICES.define(r"movmatrix\.sync\.aligned\.m8n8\.trans\.b16")
def _movmatrix(state: State, match: Match, operands: Operands) -> Step:
    a, out = state.source(operands[1], "b32"), state.target(operands[0], "b32")

    def step(mask: Mask) -> None:
        matrices = a.reshape(-1, 8, 4).view(np.uint16)
        np.copyto(out, _spread(matrices, True), where=mask)

    return step


@MATRICES.define(r"vote\.sync\.(ballot\.b32|any\.pred|all\.pred)")
def _vote(state: State, match: Match, operands: Operands) -> Step:
    kind = match[1]
    votes, members = state.source(operands[1], "pred"), state.source(operands[2], "b32")
    out = state.target(operands[0], "b32" if kind == "ballot.b32" else "pred")

    def step(mask: Mask) -> None:
        if (members[state.active(mask)] != _WHOLE_WARP).any():
            raise PtxFault("a vote of a part of a warp is not modelled")
        warps = votes.reshape(-1, 32)
        if kind == "ballot.b32":
            result = (warps.astype(np.uint32) << _LANE.astype(np.uint32)).sum(1, dtype=np.uint32)
        else:
            result = warps.any(1) if kind == "any.pred" else warps.all(1)
        np.copyto(out, np.repeat(result, 32), where=mask)

    return step


@MATRICES.define(r"shfl\.sync\.idx\.b32")
def _shuffle(state: State, match: Match, operands: Operands) -> Step:
    """The word of the lane that the low 5 bits of b name; the second target, a predicate, says if that lane is in range."""
    if isinstance(operands[0], tuple) or str(operands[0]).count("|"):
        target, _, in_range = str(operands[0]).partition("|")
        outs = state.target(target, "b32"), state.target(in_range, "pred")
    else:
        outs = (state.target(operands[0], "b32"),)
    words, lanes, clamp, members = (state.source(operand, "b32") for operand in operands[1:])

    def step(mask: Mask) -> None:
        active = state.active(mask)
        if (members[active] != _WHOLE_WARP).any():
            raise PtxFault("a shuffle of a part of a warp is not modelled")
        if (clamp[active] != 31).any():
            raise PtxFault("a shuffle in segments of a warp is not modelled")
        first = np.arange(state.threads, dtype=np.intp) // 32 * 32
        picked = words[first + (lanes & np.uint32(31)).astype(np.intp)]
        np.copyto(outs[0], picked, where=mask)
        if len(outs) > 1:
            np.copyto(outs[1], True, where=mask)

    return step
