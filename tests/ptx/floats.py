"""PTX instructions on floats, each thread by itself, and conversions (PTX ISA 9.7.3, 9.7.9)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx.memory import Array
from tests.ptx.parser import Operand, PtxFault
from tests.ptx.state import Instructions, State, Step, compute, dtype_of, elementwise

FLOATS = Instructions()

Operands = tuple[Operand, ...]
Match = re.Match[str]


def _float(state: State, operands: Operands, function: Callable[..., Array]) -> Step:
    values = [state.source(operand, "f32") for operand in operands[1:]]
    return compute(state, operands[0], "f32", lambda: function(*values))


@FLOATS.define(r"(add|sub|mul)(?:\.rn)?\.f32")
def _float_ring(state: State, match: Match, operands: Operands) -> Step:
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[match[1]]
    return elementwise(state, operands, "f32", function)


def _fused(a: Array, b: Array, c: Array) -> Array:
    """a * b + c rounded once: the float64 sum is rounded to odd, after which rounding to float32 is correct."""
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    inexact = np.isfinite(total) & (error != 0) & (total.view(np.uint64) & np.uint64(1) == 0)
    odd = np.nextafter(total, np.copysign(np.inf, error))
    return np.where(inexact, odd, total).astype(np.float32)


@FLOATS.define(r"fma\.rn\.f32")
def _fma(state: State, match: Match, operands: Operands) -> Step:
    return _float(state, operands, _fused)


@FLOATS.define(r"neg\.f32")
def _negation(state: State, match: Match, operands: Operands) -> Step:
    return _float(state, operands, np.negative)


@FLOATS.define(r"div\.rn\.f32")
def _division(state: State, match: Match, operands: Operands) -> Step:
    return _float(state, operands, np.divide)


# Largest relative error that the ISA allows.
_APPROXIMATIONS: dict[str, tuple[Callable[..., Any], float]] = {
    "ex2": (np.exp2, 2.0**-22),
    "rcp": (np.reciprocal, 2.0**-23),
}


def _flush(values: Array) -> Array:
    """Replace subnormal numbers by zeros of their sign."""
    return np.where(np.absolute(values) < 2.0**-126, np.copysign(np.float32(0), values), values)


@FLOATS.define(r"(ex2|rcp)\.approx\.ftz\.f32")
def _approximation(state: State, match: Match, operands: Operands) -> Step:
    """Result with the largest allowed error, up or down by the last bit of the source."""
    function, granted = _APPROXIMATIONS[match[1]]

    def approximate(values: Array) -> Array:
        flushed = _flush(values)
        sign = 1.0 - 2.0 * (flushed.view(np.uint32) & np.uint32(1))
        return _flush((function(flushed.astype(np.float64)) * (1 + sign * granted)).astype(np.float32))

    return _float(state, operands, approximate)


# Conversions


@FLOATS.define(r"cvt\.rn\.f32\.([us](?:16|32|64))")
def _integer_to_float(state: State, match: Match, operands: Operands) -> Step:
    a = state.source(operands[1], match[1])
    return compute(state, operands[0], "f32", lambda: a.astype(np.float32))


@FLOATS.define(r"cvt\.r([nzmp])i\.([us]32)\.f32")
def _float_to_integer(state: State, match: Match, operands: Operands) -> Step:
    """Clamp to the range; a NaN becomes 0."""
    a, limits = state.source(operands[1], "f32"), np.iinfo(dtype_of(match[2]))
    rounded = {"n": np.rint, "z": np.trunc, "m": np.floor, "p": np.ceil}[match[1]]

    def converted() -> Array:
        whole = np.nan_to_num(rounded(a.astype(np.float64)), nan=0.0, posinf=limits.max, neginf=limits.min)
        return np.clip(whole, limits.min, limits.max).astype(np.int64).astype(dtype_of(match[2]))

    return compute(state, operands[0], match[2], converted)


@FLOATS.define(r"cvt\.f32\.f16")
def _half_to_float(state: State, match: Match, operands: Operands) -> Step:
    a = state.source(operands[1], "f16")
    return compute(state, operands[0], "f32", lambda: a.astype(np.float32))


@FLOATS.define(r"cvt\.rn\.(f16|bf16)x2\.f32")
def _float_to_16_bits(state: State, match: Match, operands: Operands) -> Step:
    """The first source becomes the upper half."""
    kind = match[1]
    a, low = (state.source(operand, "f32") for operand in operands[1:])

    def packed() -> Array:
        upper = _to_16_bits(a, kind).astype(np.uint32) << np.uint32(16)
        return upper | _to_16_bits(low, kind)

    return compute(state, operands[0], "b32", packed)


@FLOATS.define(r"(add|mul)(?:\.rn)?\.f16x2|fma\.rn\.(bf16|f16)x2")
def _pairs(state: State, match: Match, operands: Operands) -> Step:
    """Two results of 16 bits, each rounded once; subnormal numbers are kept."""
    kind = match[2] or "f16"
    sources = [state.source(operand, "b32") for operand in operands[1:]]

    def halves(shift: int) -> Array:
        a, b, *c = (_from_16_bits((source >> np.uint32(shift)).astype(np.uint16), kind) for source in sources)
        exact = a + b if match[1] == "add" else a * b + (c[0] if c else 0)
        single = exact.astype(np.float32)
        if (single[np.isfinite(exact)] != exact[np.isfinite(exact)]).any():
            raise PtxFault("this sum would be rounded twice")
        return _to_16_bits(single, kind).astype(np.uint32) << np.uint32(shift)

    return compute(state, operands[0], "b32", lambda: halves(16) | halves(0))


def _from_16_bits(bits: Array, kind: str) -> Array:
    """Values of the bits of f16 or bf16 in float64."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _to_16_bits(values: Array, kind: str) -> Array:
    """Round float32 to the bits of f16 or bf16, to nearest even; a NaN becomes the canonical 0x7FFF."""
    if kind == "f16":
        rounded = values.astype(np.float16).view(np.uint16)
    else:
        bits = values.view(np.uint32)
        up = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
        rounded = (bits + up >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)
