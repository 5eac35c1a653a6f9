"""PTX instructions on integers, bits and predicates, each thread by itself (PTX ISA 9.7.1, 9.7.6 - 9.7.9)."""

from __future__ import annotations

import re

import numpy as np

from tests.ptx.memory import Array
from tests.ptx.parser import Operand, PtxFault
from tests.ptx.state import Instructions, Mask, State, Step, compute, dtype_of, elementwise

ARITHMETIC = Instructions()

Operands = tuple[Operand, ...]
Match = re.Match[str]

_INTEGER = "[us](?:16|32|64)"
_COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
_LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


@ARITHMETIC.define(rf"(add|sub|mul\.lo|min|max)\.({_INTEGER})")
def _integer(state: State, match: Match, operands: Operands) -> Step:
    functions = {
        "add": np.add, "sub": np.subtract, "mul.lo": np.multiply, "min": np.minimum, "max": np.maximum,
    }  # fmt: skip
    return elementwise(state, operands, match[2], functions[match[1]])


@ARITHMETIC.define(r"neg\.(s(?:16|32|64))")
def _negation(state: State, match: Match, operands: Operands) -> Step:
    return elementwise(state, operands, match[1], np.negative)


@ARITHMETIC.define(r"mul\.wide\.([us])(16|32)")
def _long_product(state: State, match: Match, operands: Operands) -> Step:
    kind, result = match[1] + match[2], f"{match[1]}{2 * int(match[2])}"
    a, b, long = state.source(operands[1], kind), state.source(operands[2], kind), dtype_of(result)
    return compute(state, operands[0], result, lambda: a.astype(long) * b.astype(long))


@ARITHMETIC.define(rf"mad\.lo\.({_INTEGER})")
def _mad(state: State, match: Match, operands: Operands) -> Step:
    a, b, c = (state.source(operand, match[1]) for operand in operands[1:])
    return compute(state, operands[0], match[1], lambda: a * b + c)


@ARITHMETIC.define(rf"div\.({_INTEGER})")
def _division(state: State, match: Match, operands: Operands) -> Step:
    """Division rounds towards zero."""
    a, b = state.source(operands[1], match[1]), state.source(operands[2], match[1])
    out, unsigned = state.target(operands[0], match[1]), np.dtype(f"u{a.dtype.itemsize}")

    def step(mask: Mask) -> None:
        if (state.active(mask) & (b == 0)).any():
            raise PtxFault("a division by zero")
        divisor = np.where(b == 0, np.ones_like(b), b)
        size = (np.absolute(a).view(unsigned) // np.absolute(divisor).view(unsigned)).view(a.dtype)
        np.copyto(out, np.where((a < 0) ^ (b < 0), -size, size), where=mask)

    return step


@ARITHMETIC.define(r"(and|or|xor)\.(pred|b16|b32|b64)")
def _logic(state: State, match: Match, operands: Operands) -> Step:
    return elementwise(state, operands, match[2], _LOGIC[match[1]])


@ARITHMETIC.define(r"not\.(pred|b16|b32|b64)")
def _not(state: State, match: Match, operands: Operands) -> Step:
    return elementwise(state, operands, match[1], np.invert)


@ARITHMETIC.define(r"(shl\.b|shr\.[bus])(16|32|64)")
def _shift(state: State, match: Match, operands: Operands) -> Step:
    """Amounts beyond the width are clamped to it, and yield zeros or copies of the sign."""
    kind, bits = match[1][-1] + match[2], int(match[2])
    a, amount = state.source(operands[1], kind), state.source(operands[2], "u32")
    left, most = match[1].startswith("shl"), bits - 1

    def shifted() -> Array:
        by = np.minimum(amount, most).astype(a.dtype)
        if left:
            return np.where(amount > most, 0, a << by).astype(a.dtype)
        return a >> by if a.dtype.kind == "i" else np.where(amount > most, 0, a >> by).astype(a.dtype)

    if str(operands[2]) in state.registers:
        return compute(state, operands[0], kind, shifted)
    if amount[0] > most:
        raise PtxFault("a constant shift beyond the width")
    by, function = amount.astype(a.dtype), np.left_shift if left else np.right_shift
    out = state.target(operands[0], kind)
    return lambda mask: function(a, by, out=out, where=mask)


@ARITHMETIC.define(r"bfi\.b(32|64)")
def _bit_field_insert(state: State, match: Match, operands: Operands) -> Step:
    """Insert the low d bits of a into b at position c; c and d are their low bytes."""
    kind, bits = f"b{match[1]}", int(match[1])
    a, b = state.source(operands[1], kind), state.source(operands[2], kind)
    position, length = (state.source(operand, "u32") & np.uint32(255) for operand in operands[3:])
    if any(str(operand) in state.registers for operand in operands[3:]) or (position + length > bits).any():
        raise PtxFault("a bit field that is not constant, or lies outside")
    field = a.dtype.type(((1 << int(length[0])) - 1) << int(position[0]))
    by = position.astype(a.dtype)
    return compute(state, operands[0], kind, lambda: (b & ~field) | (a << by & field))


@ARITHMETIC.define(r"popc\.b(32|64)")
def _population(state: State, match: Match, operands: Operands) -> Step:
    a = state.source(operands[1], f"b{match[1]}")
    return compute(state, operands[0], "u32", lambda: np.bitwise_count(a).astype(np.uint32))


@ARITHMETIC.define(r"lop3\.b32")
def _three_bits(state: State, match: Match, operands: Operands) -> Step:
    """Bit 4 a + 2 b + c of the last operand, a constant, is the result for the bits a, b, c."""
    a, b, c = (state.source(operand, "b32") for operand in operands[1:4])
    table = int(str(operands[4]), 0)

    def combined() -> Array:
        out = np.zeros(len(a), np.uint32)
        for row in range(8):
            if table >> row & 1:
                out |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return out

    return compute(state, operands[0], "b32", combined)


@ARITHMETIC.define(r"prmt\.b32")
def _permute(state: State, match: Match, operands: Operands) -> Step:
    """Byte i is the byte of {b, a} that nibble i of c names, or its replicated sign when the nibble's top bit is set."""
    a, b, c = (state.source(operand, "b32") for operand in operands[1:])

    def permuted() -> Array:
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        out = np.zeros(len(a), np.uint32)
        for i in range(4):
            choice = c >> np.uint32(4 * i) & np.uint32(15)
            byte = (both >> (8 * (choice & np.uint32(7))).astype(np.uint64)).astype(np.uint8)
            sign = np.where(byte & 128, 255, 0).astype(np.uint8)
            out |= np.where(choice & np.uint32(8), sign, byte).astype(np.uint32) << np.uint32(8 * i)
        return out

    return compute(state, operands[0], "b32", permuted)


@ARITHMETIC.define(r"setp\.(eq|ne|lt|le|gt|ge)\.([bus](?:16|32|64)|f32)")
def _compare(state: State, match: Match, operands: Operands) -> Step:
    """Every comparison with a NaN is false."""
    test, kind = match.groups()
    if (test, kind) == ("ne", "f32"):
        raise PtxFault("a NaN is not unequal, and numpy says that it is")
    a, b = state.source(operands[1], kind), state.source(operands[2], kind)
    out, function = state.target(operands[0], "pred"), _COMPARISONS[test]
    return lambda mask: function(a, b, out=out, where=mask)


@ARITHMETIC.define(r"selp\.([busf](?:16|32|64))")
def _select(state: State, match: Match, operands: Operands) -> Step:
    a, b = state.source(operands[1], match[1]), state.source(operands[2], match[1])
    choice = state.source(operands[3], "pred")
    return compute(state, operands[0], match[1], lambda: np.where(choice, a, b))


@ARITHMETIC.define(r"mov\.(pred|[busf](?:16|32|64))")
def _move(state: State, match: Match, operands: Operands) -> Step:
    kind = match[1]
    if isinstance(operands[0], tuple):
        return _unpack(state, kind, operands[0], operands[1])
    if isinstance(operands[1], tuple):
        return _pack(state, kind, operands[0], operands[1])
    a = state.source(operands[1], kind)
    return compute(state, operands[0], kind, lambda: a)


def _pack(state: State, kind: str, target: Operand, parts: Operands) -> Step:
    bits, whole = int(kind[1:]) // len(parts), dtype_of(f"b{kind[1:]}")
    values = [state.source(part, f"b{bits}") for part in parts]
    return compute(
        state, target, f"b{kind[1:]}",
        lambda: sum((v.astype(whole) << whole.type(bits * i) for i, v in enumerate(values)), whole.type(0)),
    )  # fmt: skip


def _unpack(state: State, kind: str, targets: Operands, source: Operand) -> Step:
    bits, a = int(kind[1:]) // len(targets), state.source(source, f"b{kind[1:]}")
    outs = [state.target(target, f"b{bits}") for target in targets]

    def step(mask: Mask) -> None:
        for i, out in enumerate(outs):
            np.copyto(out, (a >> a.dtype.type(bits * i)).astype(out.dtype), where=mask)

    return step


@ARITHMETIC.define(r"cvta\.to\.global\.u64")
def _to_global(state: State, match: Match, operands: Operands) -> Step:
    a = state.source(operands[1], "u64")  # generic and global addresses are the same numbers
    return compute(state, operands[0], "u64", lambda: a)


@ARITHMETIC.define(r"createpolicy\.fractional\.L2::evict_(?:first|normal|last|unchanged)\.b64")
def _policy(state: State, match: Match, operands: Operands) -> Step:
    if not 0 < float(str(operands[1])) <= 1:
        raise PtxFault("a policy's fraction lies in (0, 1]")
    out = state.target(operands[0], "b64")
    return lambda mask: np.copyto(out, 0, where=mask)


@ARITHMETIC.define(r"cvt\.([us](?:8|16|32|64))\.([us](?:8|16|32|64))")
def _integer_to_integer(state: State, match: Match, operands: Operands) -> Step:
    """Cut, or extended by the source's sign; a wider target register is extended by the target's sign."""
    a, narrow = state.source(operands[1], match[2]), dtype_of(match[1])
    wide = f"{match[1][0]}{max(state.width(operands[0]), int(match[1][1:]))}"
    out = state.target(operands[0], wide)
    return lambda mask: np.copyto(out, a.astype(narrow), where=mask)
