"""PTX's products of warpgroups on sm_90a (PTX ISA, 9.7.15).

Registers of A, sums and metadata of a warp: figures of 9.7.15.5.1.1 and 9.7.15.6.3, the same as for mma.m16n8k16 and
mma.sp.m16n8k32, for the 16 rows from 16 * (warp of the warpgroup).
"""

from __future__ import annotations

import numpy as np

from tests.ptx.memory import Array
from tests.ptx.parser import PtxFault
from tests.ptx.state import Instructions, Mask, State, Step
from tests.ptx.warpgroups import WIDTH, Match, Operands, Product, Warpgroups, warpgroups_of

WGMMA = Instructions()

_THREAD = np.arange(WIDTH)
_WARP, _GROUP, _QUAD = _THREAD // 32, _THREAD % 32 // 4, _THREAD % 4


def sum_places(value: int) -> tuple[Array, Array]:
    """Row and column of sum `value` of every thread in D [64, tokens]."""
    return 16 * _WARP + _GROUP + 8 * (value // 2 % 2), 8 * (value // 4) + 2 * _QUAD + value % 2


def metadata_places(row: int, chunk: int, selector: int) -> tuple[int, int]:
    """Thread, and first of the 4 bits, that say which of the columns 4 * chunk ... 4 * chunk + 3 of a row are kept."""
    thread = 32 * (row // 16) + 4 * (row % 8) + 2 * selector + chunk // 4
    return thread, 16 * (row % 16 // 8) + 4 * (chunk % 4)


def a_places(value: int) -> tuple[Array, Array]:
    """Row and column of value 0 .. 7 of every thread in A [64, 16], or in the kept half of [64, 32]."""
    return 16 * _WARP + _GROUP + 8 * (value // 2 % 2), 2 * _QUAD + value % 2 + 8 * (value // 4)


def _a_matrix(registers: list[Array], kind: str) -> Array:
    out = np.zeros((64, 16))
    for i in range(8):
        out[a_places(i)] = _widen(registers[i // 2].view(np.uint16)[i % 2 :: 2], kind)
    return out


def _widen(bits: Array, kind: str) -> Array:
    if kind == "f16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _columns(words: Array, selector: int) -> Array:
    """Columns [64, 16] of the kept values in [64, 32], by the metadata of all threads of a warpgroup."""
    out = np.zeros((64, 16), np.intp)
    for row in range(64):
        for chunk in range(8):  # of four columns
            thread, shift = metadata_places(row, chunk, selector)
            pair = int(words[thread]) >> shift & 15
            if pair & 3 >= pair >> 2:
                raise PtxFault("metadata is not in ascending order")
            out[row, 2 * chunk : 2 * chunk + 2] = 4 * chunk + (pair & 3), 4 * chunk + (pair >> 2)
    return out


def _b_matrix(state: State, shared: Warpgroups, descriptor: int, tokens: int, depth: int, kind: str) -> Array:
    """B [depth, tokens] behind a matrix descriptor (9.7.15.5.1.2): K along rows of 128 bytes, 128-byte swizzle.

    Bits 4 to 6 of an address are exchanged with bits 7 to 9 by xor; the pattern begins at multiples of 1024 bytes.
    """
    start, stride = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
    if descriptor >> 62 != 1 or descriptor >> 49 & 7 or descriptor & 0x3FFF_C000_C000_C000 & ~(7 << 49):
        raise PtxFault("a descriptor that is not of the 128-byte swizzle, or has an offset of its base")
    if start % 1024 + 2 * depth > 128:
        raise PtxFault("a product takes columns beyond its rows of 128 bytes")
    token, k = np.arange(tokens)[None, :], np.arange(depth)[:, None]
    plain = start + token // 8 * stride + token % 8 * 128 + 2 * k
    places = plain ^ (plain >> 7 & 7) << 4
    offsets = places.reshape(-1) - state.shared.base
    if shared.unseen[offsets].any():
        raise PtxFault("a product reads what the generic proxy wrote, without a proxy fence")
    bits = state.shared.load(places.reshape(-1), np.dtype(np.uint16))
    return _widen(bits.reshape(-1), kind).reshape(depth, tokens)


@WGMMA.define(
    r"wgmma\.mma_async(?P<sparse>\.sp)?\.sync\.aligned\.(?P<shape>m64n(?P<tokens>\d+)k(?P<depth>16|32))"
    r"\.f32\.(?P<kind>f16|bf16)\.(?P=kind)"
)
def _product(state: State, match: Match, operands: Operands) -> Step:
    sparse, tokens, depth, kind = (
        bool(match["sparse"]),
        int(match["tokens"]),
        int(match["depth"]),
        match["kind"],
    )
    sums, weights, descriptor, *rest = operands
    if depth != (32 if sparse else 16) or tokens % 8 or not 8 <= tokens <= 256:
        raise PtxFault("there is no product of this shape")
    if (
        not isinstance(sums, tuple)
        or len(sums) != tokens // 2
        or not isinstance(weights, tuple)
        or len(weights) != 4
    ):
        raise PtxFault("a product with other registers")
    places = state.source(rest.pop(0), "b32") if sparse else np.zeros(state.threads, np.uint32)
    selector = int(str(rest.pop(0))) if sparse else 0
    adds = state.source(rest.pop(0), "pred")
    if [str(operand) for operand in rest] != ["1", "1", "0"] or selector not in (0, 1):
        raise PtxFault("only products without signs and without a transposed B are modelled")
    outs = [state.target(register, "f32") for register in sums]
    a = [state.target(register, "b32") for register in weights]
    x, shared = state.source(descriptor, "u64"), warpgroups_of(state)
    live = [*a, places] if sparse else a
    watched = dict(zip(map(str, (*sums, *weights)), (*outs, *a), strict=True))
    shared.watched |= watched

    def run(threads: slice, registers: list[Array], of: int) -> None:
        values = _a_matrix(registers, kind)
        b = _b_matrix(state, shared, of, tokens, depth, kind)
        if sparse:
            columns = _columns(registers[4], selector)
            # A row of B that no metadata names is not multiplied, so a NaN in it goes nowhere.
            exact = (values[:, None, :] @ b[columns])[:, 0]
        else:
            exact = values @ b
        for i, (name, out) in enumerate(zip(sums, outs, strict=True)):
            row, column = sum_places(i)
            out[threads] = (exact[row, column] + out[threads]).astype(np.float32)
            if name in shared.fenced:
                shared.fenced[str(name)][threads] = out[threads]

    def step(mask: Mask) -> None:
        active = state.active(mask).reshape(-1, WIDTH)
        for warpgroup in np.flatnonzero(active.all(1)):
            threads = slice(int(warpgroup) * WIDTH, (int(warpgroup) + 1) * WIDTH)
            if not adds[threads].all() or len(set(x[threads].tolist())) != 1:
                raise PtxFault("threads of a warpgroup disagree about a product, or it does not add")
            under_way = [p for group in (*shared.groups[warpgroup], shared.open[warpgroup]) for p in group]
            if any(p.shape != match["shape"] for p in under_way):
                raise PtxFault("products of two shapes are under way in the same sums")
            for name, register in watched.items():
                if (register[threads].view(np.uint32) != shared.fenced[name][threads].view(np.uint32)).any():
                    raise PtxFault(f"{name} was written, and no wgmma.fence came before the product")
            of = int(x[threads.start])
            product = Product(
                threads,
                match["shape"],
                lambda t, r, of=of: run(t, r, of),
                [v[threads].copy() for v in live],
                live,
            )
            if shared.early() and not under_way:
                shared.finish(product)
            else:
                shared.open[warpgroup].append(product)

    return step


@WGMMA.define(r"wgmma\.fence\.sync\.aligned")
def _fence(state: State, match: Match, operands: Operands) -> Step:
    shared = warpgroups_of(state)

    def step(mask: Mask) -> None:
        active = state.active(mask)
        for name, register in shared.watched.items():
            shared.fenced[name][active] = register[active]

    return step


@WGMMA.define(r"wgmma\.commit_group\.sync\.aligned")
def _commit(state: State, match: Match, operands: Operands) -> Step:
    shared = warpgroups_of(state)

    def step(mask: Mask) -> None:
        for warpgroup in np.flatnonzero(state.active(mask).reshape(-1, WIDTH).all(1)):
            shared.groups[warpgroup].append(shared.open[warpgroup])
            shared.open[warpgroup] = []

    return step


@WGMMA.define(r"wgmma\.wait_group\.sync\.aligned")
def _wait(state: State, match: Match, operands: Operands) -> Step:
    shared, newest = warpgroups_of(state), int(str(operands[0]))

    def step(mask: Mask) -> None:
        for warpgroup in np.flatnonzero(state.active(mask).reshape(-1, WIDTH).all(1)):
            shared.wait(int(warpgroup), newest)

    return step
