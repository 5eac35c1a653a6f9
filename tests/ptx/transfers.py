"""PTX instructions that touch memory, each thread by itself (PTX ISA 9.7.9): ld, st, atom, cp.async, fences."""

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

_CACHE = r"(?:\.(?:ca|cg|cs|lu|cv|wb|wt)|\.L1::(?:evict_\w+|no_allocate)|\.L2::(?:64|128|256)B)*"
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


@TRANSFERS.define(rf"ld\.(?P<space>global|shared){_CACHE}(?P<constant>\.nc)?{_CACHE}{_TYPE}")
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


@TRANSFERS.define(rf"st\.(?P<space>global|shared){_CACHE}{_TYPE}")
def _store(state: State, match: Match, operands: Operands) -> Step:
    memory, address = _memory(state, match["space"]), state.address(operands[0])
    values = [state.source(operand, match["kind"]) for operand in _vector(operands[1], match)]

    def step(mask: Mask) -> None:
        active = slice(None) if mask is True else mask
        memory().store(address()[active], np.stack([value[active] for value in values], -1))

    return step


@TRANSFERS.define(
    r"(atom|red)(?:\.(?:relaxed|acq_rel|release|acquire))?(?:\.gpu)?\.global(?:\.gpu)?\.add\.([us]32|f32)"
)
def _add_atomically(state: State, match: Match, operands: Operands) -> Step:
    returns, kind = match[1] == "atom", match[2]
    address, value = state.address(operands[-2]), state.source(operands[-1], kind)
    out = state.target(operands[0], kind) if returns else None

    def step(mask: Mask) -> None:
        at = address()
        for thread in np.flatnonzero(state.active(mask)):
            old = state.memory.load(at[thread, None], dtype_of(kind))
            state.memory.store(at[thread, None], old + value[thread])
            if out is not None:
                out[thread] = old[0, 0]

    return step


@TRANSFERS.define(r"membar\.(?:cta|gl|sys)|fence(?:\.(?:sc|acq_rel))?\.(?:cta|gpu|sys)")
def _fence(state: State, match: Match, operands: Operands) -> Step:
    return lambda mask: None  # blocks run one after another, so memory is always in order


@TRANSFERS.define(r"griddepcontrol\.(?:wait|launch_dependents)")
def _launches(state: State, match: Match, operands: Operands) -> Step:
    return lambda mask: (
        None
    )  # launches run one after another; host/machine.h checks what comes before the wait


_COPY = r"cp\.async\.(?P<cache>ca|cg)\.shared(?:::cta)?\.global"


@TRANSFERS.define(rf"{_COPY}(?P<hint>\.L2::cache_hint)?(?:\.L2::(?:64|128|256)B)?")
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


@TRANSFERS.define(r"cp\.async\.wait_(group|all)")
def _wait(state: State, match: Match, operands: Operands) -> Step:
    newest = int(str(operands[0])) if match[1] == "group" else None
    return lambda mask: state.copies.wait(state, mask, newest)
