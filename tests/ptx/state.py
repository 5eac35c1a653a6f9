"""State of a block of threads that runs PTX: memories, registers, pending copies; and tables of instructions.

A value of all threads of the block is one array [threads]. A mask selects threads; True selects all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.ptx.memory import POISON, Array, Memory
from tests.ptx.parser import Entry, Instruction, Operand, PtxFault

Mask = NDArray[np.bool_] | bool
Step = Callable[[Mask], None]

PARAMETERS = 1 << 40  # address of a parameter in its own state space
_WIDTHS = {"b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "pred": np.bool_}
_KINDS = {"b": "u", "u": "u", "s": "i", "f": "f"}


def dtype_of(kind: str) -> np.dtype[Any]:
    """Numpy dtype of a PTX type such as "s32", "f16" or "pred"; untyped bits are unsigned."""
    return np.dtype(np.bool_) if kind == "pred" else np.dtype(f"{_KINDS[kind[0]]}{int(kind[1:]) // 8}")


@dataclass
class _Copy:
    group: Array  # number of the group, counted by each thread
    left: NDArray[np.bool_]  # True for threads whose bytes have not landed
    target: Array
    source: Array
    width: int
    size: Array  # bytes to read; the rest becomes zeros


class Copies:
    """Pending cp.async. Bytes land when a wait asks for them; until then the target is poisoned."""

    def __init__(self, threads: int) -> None:
        self.committed = np.zeros(threads, np.int64)
        self.under_way: list[_Copy] = []

    def clear(self) -> None:
        self.committed[:] = 0
        self.under_way.clear()

    def start(self, state: State, mask: Mask, target: Array, source: Array, width: int, size: Array) -> None:
        active = state.active(mask)
        if (size[active] > width).any():
            raise PtxFault("src-size is larger than cp-size")
        reads = active & (size > 0)
        if (size[reads] != width).any():
            raise PtxFault("a copy of a part of its bytes is not modelled")
        state.memory.check(source[reads], width)
        state.shared.store(target[active], np.full((int(active.sum()), width), POISON, np.uint8))
        self.under_way.append(_Copy(self.committed.copy(), active, target, source, width, size))

    def commit(self, mask: Mask) -> None:
        self.committed += mask

    def wait(self, state: State, mask: Mask, newest: int) -> None:
        """Land all but each thread's `newest` latest groups."""
        rest = []
        for copy in self.under_way:
            due = copy.left & mask & (copy.group < self.committed - newest)
            if due.any():
                self._land(state, copy, due)
                copy.left = copy.left & ~due
            if copy.left.any():
                rest.append(copy)
        self.under_way = rest

    @staticmethod
    def _land(state: State, copy: _Copy, due: NDArray[np.bool_]) -> None:
        values = np.zeros((len(due), copy.width), np.uint8)
        reads = due & (copy.size > 0)
        values[reads] = state.memory.load(copy.source[reads], np.dtype(np.uint8), copy.width)
        state.shared.store(copy.target[due], values[due])


class State:
    """Registers of all threads, the block's shared memory, and the launch's global memory and parameters."""

    def __init__(self, entry: Entry, threads: int, shared_bytes: int) -> None:
        self.entry, self.threads = entry, threads
        self.shared = Memory.shared(shared_bytes)
        self.memory = Memory.holding({}, ())
        self.copies = Copies(threads)
        self.parameters = {name: np.zeros(size, np.uint8) for name, size in entry.parameters.items()}
        self.registers: dict[str, Array] = {}
        self.files: list[Array] = []
        for width, dtype in _WIDTHS.items():
            names = [name for name, of in entry.registers.items() if of == width]
            self.files.append(np.empty((len(names), threads), dtype))
            self.registers.update(zip(names, self.files[-1], strict=True))
        self.block = np.zeros(threads, np.uint32)
        self.specials = {"%tid.x": np.arange(threads, dtype=np.uint32), "%ctaid.x": self.block}

    def begin(self, block: int) -> None:
        """Reset for a new block: registers and shared memory are poisoned."""
        for file in self.files:
            file.view(np.uint8)[...] = 1 if file.dtype == np.bool_ else POISON
        self.shared.poison()
        self.copies.clear()
        self.block[:] = block

    def active(self, mask: Mask) -> NDArray[np.bool_]:
        return np.full(self.threads, mask) if isinstance(mask, bool) else mask

    def source(self, operand: Operand, kind: str) -> Array:
        """Values of an operand [threads]: a view of a register, which may be wider, or a constant."""
        dtype = dtype_of(kind)
        if isinstance(operand, tuple):
            raise PtxFault(f"a vector where one value is expected: {operand}")
        if operand == self.entry.shared:
            return np.full(self.threads, self.shared.base, dtype)
        if operand in self.parameters:
            return np.full(self.threads, PARAMETERS, dtype)
        register = self.registers.get(operand, self.specials.get(operand))
        if register is None:
            return np.full(self.threads, _constant(operand, dtype))
        if (register.dtype == np.bool_) != (dtype == np.bool_) or register.itemsize < dtype.itemsize:
            raise PtxFault(f"{operand} is no {kind}")
        return register.view(dtype)[:: register.itemsize // dtype.itemsize]  # the low part of a wider one

    def target(self, operand: Operand, kind: str) -> Array:
        """The register to write [threads], in the type's width."""
        if isinstance(operand, tuple) or operand not in self.registers:
            raise PtxFault(f"{operand} is no register")
        register, dtype = self.registers[operand], dtype_of(kind)
        if (register.dtype == np.bool_) != (dtype == np.bool_) or register.itemsize != dtype.itemsize:
            raise PtxFault(f"{operand} is no {kind}")
        return register.view(dtype)

    def width(self, operand: Operand) -> int:
        """Number of bits of a register."""
        if isinstance(operand, tuple) or operand not in self.registers:
            raise PtxFault(f"{operand} is no register")
        return 8 * int(self.registers[operand].itemsize)

    def address(self, operand: Operand) -> Callable[[], Array]:
        """A function that computes [register + offset] for all threads."""
        match = re.fullmatch(r"\[\s*([%$\w.@]+)\s*(?:\+\s*(-?\d+))?\s*\]", str(operand))
        if match is None:
            raise PtxFault(f"no address: {operand}")
        wide = match[1] in self.registers and self.registers[match[1]].itemsize == 8
        base, offset = self.source(match[1], "s64" if wide else "u32"), int(match[2] or 0)
        return lambda: base.astype(np.int64) + offset


def _constant(text: str, dtype: np.dtype[Any]) -> Any:
    """Value of an immediate: hexadecimal bits of a float (0f, 0d), or an integer cut to the type."""
    if dtype == np.bool_:
        return int(text, 0) != 0
    floating = re.fullmatch(r"0([fFdD])([0-9a-fA-F]{8}|[0-9a-fA-F]{16})", text)
    if floating:
        bits = f"u{len(floating[2]) // 2}"
        if dtype.itemsize * 2 != len(floating[2]):
            raise PtxFault(f"{text} is no {dtype}")
        return np.array(int(floating[2], 16), bits).view(dtype)[()]
    integer = re.fullmatch(r"(-?(?:0[xX][0-9a-fA-F]+|\d+))U?", text)
    if integer is None or dtype.kind == "f":
        raise PtxFault(f"{text} is neither a register nor a constant of type {dtype}")
    unsigned = np.dtype(f"u{dtype.itemsize}")
    return np.array(int(integer[1], 0) % (1 << 8 * dtype.itemsize), unsigned).view(dtype)[()]


def compute(state: State, target: Operand, kind: str, function: Callable[[], Array]) -> Step:
    """A step that writes the result of `function` for the threads of the mask."""
    out = state.target(target, kind)
    return lambda mask: np.copyto(out, function(), where=mask)


def elementwise(state: State, operands: tuple[Operand, ...], kind: str, function: np.ufunc) -> Step:
    """A step that applies a ufunc to all operands after the first, all of one type."""
    out = state.target(operands[0], kind)
    values = [state.source(operand, kind) for operand in operands[1:]]
    if len(values) != function.nin:
        raise PtxFault(f"{function.nin} sources are expected")

    def step(mask: Mask) -> None:
        function(*values, out=out, where=mask)

    return step


Builder = Callable[[State, "re.Match[str]", tuple[Operand, ...]], Step]


class Instructions:
    """Table from opcodes, each a pattern that spells out its modifiers, to functions that build a step."""

    def __init__(self) -> None:
        self.table: list[tuple[re.Pattern[str], Builder]] = []
        self.find = lru_cache(maxsize=None)(self._find)

    def define(self, pattern: str) -> Callable[[Builder], Builder]:
        def add(builder: Builder) -> Builder:
            self.table.append((re.compile(pattern), builder))
            return builder

        return add

    def _find(self, opcode: str) -> tuple[Builder, re.Match[str]] | None:
        for pattern, builder in self.table:
            if match := pattern.fullmatch(opcode):
                return builder, match
        return None

    def step(self, state: State, instruction: Instruction) -> Step | None:
        """The step of an instruction; None when its opcode is not in this table."""
        if (row := self.find(instruction.opcode)) is None:
            return None
        builder, match = row
        return builder(state, match, instruction.operands)
