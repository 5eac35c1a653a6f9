"""PTX instructions that touch memory, each thread by itself (PTX ISA 9.7.9): ld, st, atom, cp.async."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx.memory import Array, Memory
from tests.ptx.parser import Operand, PtxFault
from tests.ptx.state import PARAMETERS, Instructions, Mask, State, Step, dtype_of

TRANSFERS = Instructions()

Operands = tuple[Operand, ...]
Match = re.Match[str]

_TYPE = r"(?:\.v(?P<count>[24]))?\.(?P<kind>[busf](?:8|16|32|64))"


def _vector(operand: Operand, match: Match) -> Operands:
    operands = operand if isinstance(operand, tuple) else (operand,)
    if len(operands) != int(match["count"] or 1):
        raise PtxFault("the vector has another length than the instruction")
    return operands


def _memory(state: State, space: str) -> Callable[[], Memory]:
    """A getter of the state space, because every launch has global memory of its own."""
    return (lambda: state.shared) if space == "shared" else (lambda: state.memory)


def _writers(state: State, targets: Operands, kind: str) -> list[tuple[Array, np.dtype[Any]]]:
    """Registers that a load writes, with its dtype; a wider register is extended by the type's sign."""
    return [
        (state.target(t, f"{kind[0]}{max(state.width(t), int(kind[1:]))}"), dtype_of(kind)) for t in targets
    ]


def _parameter_at(state: State, match: Match, operands: Operands) -> Step:
    """A load from an address within the kernel's one parameter."""
    if len(state.parameters) != 1:
        raise PtxFault("an address is modelled in the only parameter of a kernel")
    (held,) = state.parameters.values()
    targets, dtype = _vector(operands[0], match), dtype_of(match["kind"])
    address, writers = state.address(operands[1]), _writers(state, targets, match["kind"])
    whole = dtype.itemsize * len(targets)

    def step(mask: Mask) -> None:
        at = address()[mask].ravel() - PARAMETERS
        if len(at) and (at.min() < 0 or at.max() > len(held) - whole):
            raise PtxFault("there is no such parameter")
        if (at % whole).any():
            raise PtxFault("a parameter is not aligned")
        values = held[at[:, None] + np.arange(whole)].reshape(-1).view(dtype).reshape(-1, len(targets))
        for i, (out, _) in enumerate(writers):
            out[mask] = values[:, i]

    return step


@TRANSFERS.define(rf"ld\.param{_TYPE}")
def _parameter(state: State, match: Match, operands: Operands) -> Step:
    name, _, offset = str(operands[1]).strip("[]").partition("+")
    if name in state.registers:
        return _parameter_at(state, match, operands)
    width, start = dtype_of(match["kind"]).itemsize, int(offset or 0)
    targets = _vector(operands[0], match)
    if name not in state.parameters or start + width * len(targets) > len(state.parameters[name]):
        raise PtxFault("there is no such parameter")
    if start % (width * len(targets)):
        raise PtxFault("a parameter is not aligned")
    values = state.parameters[name][start : start + width * len(targets)].view(dtype_of(match["kind"]))
    writers = _writers(state, targets, match["kind"])

    def step(mask: Mask) -> None:
        for (out, _), value in zip(writers, values, strict=True):
            np.copyto(out, value, where=mask)

    return step


@TRANSFERS.define(rf"ld\.(?P<space>global|shared)(?:\.cg)?(?P<constant>\.nc)?{_TYPE}")
def _load(state: State, match: Match, operands: Operands) -> Step:
    memory, address = _memory(state, match["space"]), state.address(operands[1])
    targets, dtype, constant = _vector(operands[0], match), dtype_of(match["kind"]), bool(match["constant"])
    writers = _writers(state, targets, match["kind"])

    def step(mask: Mask) -> None:
        if mask is True:
            values = memory().load(address(), dtype, len(writers), constant=constant)
            for i, (out, _) in enumerate(writers):
                out[...] = values[:, i]
            return
        values = memory().load(address()[mask], dtype, len(writers), constant=constant)
        for i, (out, _) in enumerate(writers):
            out[mask] = values[:, i]

    return step


@TRANSFERS.define(rf"st\.(?P<space>global|shared)(?:\.cg)?{_TYPE}")
def _store(state: State, match: Match, operands: Operands) -> Step:
    memory, address = _memory(state, match["space"]), state.address(operands[0])
    values = [state.source(operand, match["kind"]) for operand in _vector(operands[1], match)]

    def step(mask: Mask) -> None:
        active = slice(None) if mask is True else mask
        memory().store(address()[active], np.stack([value[active] for value in values], -1))

    return step


@TRANSFERS.define(r"atom\.acq_rel\.gpu\.global\.add\.([us]32)")
def _add_atomically(state: State, match: Match, operands: Operands) -> Step:
    address, value = state.address(operands[1]), state.source(operands[2], match[1])
    out = state.target(operands[0], match[1])

    def step(mask: Mask) -> None:
        at = address()
        for thread in np.flatnonzero(state.active(mask)):
            old = state.memory.load(at[thread, None], dtype_of(match[1]))
            state.memory.store(at[thread, None], old + value[thread])
            out[thread] = old[0, 0]

    return step


@TRANSFERS.define(r"cp\.async\.(?P<cache>ca|cg)\.shared\.global(?P<hint>\.L2::cache_hint)?(?:\.L2::128B)?")
def _copy(state: State, match: Match, operands: Operands) -> Step:
    """cp.async with operands target, source, cp-size, then an optional src-size, then the policy of .L2::cache_hint."""
    rest = list(operands[2:])
    width = int(str(rest.pop(0)))
    if match["hint"]:
        state.source(rest.pop(), "b64")
    if width not in ((16,) if match["cache"] == "cg" else (4, 8, 16)) or len(rest) > 1:
        raise PtxFault("a copy of this size, or of these operands, does not exist")
    target, source = state.address(operands[0]), state.address(operands[1])
    size = state.source(rest[0], "u32") if rest else np.full(state.threads, width)

    def step(mask: Mask) -> None:
        state.copies.start(state, mask, target(), source(), width, size.astype(np.int64))

    return step


@TRANSFERS.define(r"cp\.async\.commit_group")
def _commit(state: State, match: Match, operands: Operands) -> Step:
    return state.copies.commit


@TRANSFERS.define(r"cp\.async\.wait_group")
def _wait(state: State, match: Match, operands: Operands) -> Step:
    newest = int(str(operands[0]))
    return lambda mask: state.copies.wait(state, mask, newest)
