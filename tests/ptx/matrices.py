"""PTX instructions that a warp executes together (PTX ISA 9.7.13, 9.7.14): shuffles, matrices."""

from __future__ import annotations

import re

import numpy as np

from tests.ptx.memory import Array
from tests.ptx.parser import Operand, PtxFault
from tests.ptx.state import Instructions, Mask, State, Step

MATRICES = Instructions()

Operands = tuple[Operand, ...]
Match = re.Match[str]

_WHOLE_WARP = 0xFFFFFFFF


@MATRICES.define(r"ldmatrix\.sync\.aligned\.m8n8\.x4(\.trans)?\.shared\.b16")
def _ldmatrix(state: State, match: Match, operands: Operands) -> Step:
    """Lanes 8j .. 8j+7 address the rows of matrix j; a lane gets row groupID, columns 2t, 2t+1."""
    address, transposed = state.address(operands[1]), bool(match[1])
    if not isinstance(operands[0], tuple) or len(operands[0]) != 4:
        raise PtxFault("4 registers are expected")
    outs = [state.target(register, "b32") for register in operands[0]]

    def step(mask: Mask) -> None:
        rows = np.zeros((state.threads, 8), np.uint16)
        active = state.active(mask)
        rows[active] = state.shared.load(address()[active], np.dtype(np.uint16), 8)
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


@MATRICES.define(r"shfl\.sync\.idx\.b32")
def _shuffle(state: State, match: Match, operands: Operands) -> Step:
    """The word of the lane that the low 5 bits of b name; the second target, a predicate, says if that lane is in range."""
    target, _, in_range = str(operands[0]).partition("|")
    out, is_in_range = state.target(target, "b32"), state.target(in_range, "pred")
    words, lanes, clamp, members = (state.source(operand, "b32") for operand in operands[1:])

    def step(mask: Mask) -> None:
        active = state.active(mask)
        if (members[active] != _WHOLE_WARP).any():
            raise PtxFault("a shuffle of a part of a warp is not modelled")
        if (clamp[active] != 31).any():
            raise PtxFault("a shuffle in segments of a warp is not modelled")
        first = np.arange(state.threads, dtype=np.intp) // 32 * 32
        picked = words[first + (lanes & np.uint32(31)).astype(np.intp)]
        np.copyto(out, picked, where=mask)
        np.copyto(is_in_range, True, where=mask)

    return step
