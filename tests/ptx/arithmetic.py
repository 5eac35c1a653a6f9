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
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
_LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


@ARITHMETIC.define(rf"(add|sub|mul\.lo|min|max)\.({_INTEGER})")
def _integer(state: State, match: Match, operands: Operands) -> Step:
    functions = {
        "add": np.add, "sub": np.subtract, "mul.lo": np.multiply, "min": np.minimum, "max": np.maximum,
    }  # fmt: skip
    return elementwise(state, operands, match[2], functions[match[1]])


@ARITHMETIC.define(r"(neg|abs)\.(s(?:16|32|64))")
def _sign(state: State, match: Match, operands: Operands) -> Step:
    return elementwise(state, operands, match[2], np.negative if match[1] == "neg" else np.absolute)


def _high_half(a: Array, b: Array) -> Array:
    """The upper 64 bits of a 64 by 64 bit product."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    ua, ub = a.view(np.uint64), b.view(np.uint64)
    a0, a1, b0, b1 = ua & mask, ua >> half, ub & mask, ub >> half
    middle = a1 * b0 + (a0 * b0 >> half)
    high = a1 * b1 + (middle >> half) + (a0 * b1 + (middle & mask) >> half)
    if a.dtype.kind == "i":  # two's complement: a negative factor adds 2^64 times the other factor too much
        high = high - np.where(a < 0, ub, 0) - np.where(b < 0, ua, 0)
    return high.view(a.dtype)


@ARITHMETIC.define(r"(mul|mad)\.(wide|hi)\.([us])(16|32|64)")
def _long_product(state: State, match: Match, operands: Operands) -> Step:
    form, part, sign, bits = match.groups()
    kind, wide = f"{sign}{bits}", f"{sign}{2 * int(bits)}"
    a, b = state.source(operands[1], kind), state.source(operands[2], kind)
    if bits == "64":
        if part == "wide":
            raise PtxFault("there is no product of 128 bits")

        def product() -> Array:
            return _high_half(a, b)
    else:
        long, shift = dtype_of(wide), int(bits) if part == "hi" else 0

        def product() -> Array:
            whole = a.astype(long) * b.astype(long) >> long.type(shift)
            return whole if part == "wide" else whole.astype(dtype_of(kind))

    result = wide if part == "wide" else kind
    if form == "mul":
        return compute(state, operands[0], result, product)
    c = state.source(operands[3], result)
    return compute(state, operands[0], result, lambda: product() + c)


@ARITHMETIC.define(rf"mad\.lo\.({_INTEGER})")
def _mad(state: State, match: Match, operands: Operands) -> Step:
    a, b, c = (state.source(operand, match[1]) for operand in operands[1:])
    return compute(state, operands[0], match[1], lambda: a * b + c)


@ARITHMETIC.define(rf"(div|rem)\.({_INTEGER})")
def _division(state: State, match: Match, operands: Operands) -> Step:
    """Division rounds towards zero; the remainder has the dividend's sign."""
    a, b = state.source(operands[1], match[2]), state.source(operands[2], match[2])
    out, unsigned = state.target(operands[0], match[2]), np.dtype(f"u{a.dtype.itemsize}")

    def step(mask: Mask) -> None:
        if (state.active(mask) & (b == 0)).any():
            raise PtxFault("a division by zero")
        divisor = np.where(b == 0, np.ones_like(b), b)
        if a.dtype.kind == "u":
            result = a // divisor if match[1] == "div" else a % divisor
        else:
            whole, part = np.absolute(a).view(unsigned), np.absolute(divisor).view(unsigned)
            size = (whole // part if match[1] == "div" else whole % part).view(a.dtype)
            result = np.where((a < 0) ^ (b < 0) if match[1] == "div" else a < 0, -size, size)
        np.copyto(out, result, where=mask)

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


@ARITHMETIC.define(r"bfe\.([us])(32|64)")
def _bit_field_extract(state: State, match: Match, operands: Operands) -> Step:
    kind, bits = match[1] + match[2], int(match[2])
    a = state.source(operands[1], kind)
    position, length = (state.source(operand, "u32") & np.uint32(255) for operand in operands[2:])
    if any(str(operand) in state.registers for operand in operands[2:]) or (position + length > bits).any():
        raise PtxFault("a bit field that is not constant, or lies outside")
    if length[0] == 0:
        raise PtxFault("an empty bit field")
    up, down = (bits - position - length).astype(a.dtype), (bits - length).astype(a.dtype)
    return compute(state, operands[0], kind, lambda: (a << up) >> down)


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


@ARITHMETIC.define(r"setp\.(eq|ne|lt|le|gt|ge|lo|ls|hi|hs)(?:\.(and|or|xor))?\.([busf](?:16|32|64))")
def _compare(state: State, match: Match, operands: Operands) -> Step:
    """Every comparison with a NaN is false, ne too (IEEE's ne is neu)."""
    test, logic, kind = match.groups()
    if kind[0] == "f" and test in ("lo", "ls", "hi", "hs"):
        raise PtxFault(f"{test} is for unsigned values")
    a, b = state.source(operands[1], kind), state.source(operands[2], kind)
    if logic is None and not (kind[0] == "f" and test == "ne"):
        return _ufunc_between(state, operands[0], a, b, _COMPARISONS[test])
    other = state.source(operands[3], "pred") if logic else None

    def result() -> Array:
        holds = _COMPARISONS[test](a, b)
        if kind[0] == "f" and test == "ne":
            holds &= (a == a) & (b == b)
        return holds if other is None else _LOGIC[logic](holds, other)

    return compute(state, operands[0], "pred", result)


def _ufunc_between(state: State, target: Operand, a: Array, b: Array, function: np.ufunc) -> Step:
    out = state.target(target, "pred")
    return lambda mask: function(a, b, out=out, where=mask)


@ARITHMETIC.define(r"setp\.(equ|neu|ltu|leu|gtu|geu|num|nan)\.(f32|f64)")
def _compare_unordered(state: State, match: Match, operands: Operands) -> Step:
    """Every comparison with a NaN is true."""
    a, b = state.source(operands[1], match[2]), state.source(operands[2], match[2])

    def result() -> Array:
        unordered = (a != a) | (b != b)
        if match[1] in ("num", "nan"):
            return unordered if match[1] == "nan" else ~unordered
        return _COMPARISONS[match[1][:2]](a, b) | unordered

    return compute(state, operands[0], "pred", result)


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
