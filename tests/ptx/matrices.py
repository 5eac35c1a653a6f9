"""PTX instructions that a warp executes together (PTX ISA 9.7.13, 9.7.14): votes, shuffles, matrices."""

from __future__ import annotations

import re

import numpy as np

from tests.ptx.memory import Array
from tests.ptx.parser import Operand, PtxFault
from tests.ptx.state import Instructions, Mask, State, Step

MATRICES = Instructions()

Operands = tuple[Operand, ...]
Match = re.Match[str]

_LANE = np.arange(32)
_WHOLE_WARP = 0xFFFFFFFF


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
