"""PTX instructions of sm_90a (PTX ISA, "mbarrier", "cp.async.bulk", 9.7.15): mbarriers, bulk copies, products.

Copies and products complete when something waits for them, or earlier: `Late` decides. Code that reads their results or
overwrites their operands too early therefore gets a wrong result or a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tests.ptx.memory import POISON, Array
from tests.ptx.parser import Operand, PtxFault
from tests.ptx.state import Instructions, Mask, State, Step, compute

__all__ = [
    "WARPGROUPS",
    "WIDTH",
    "Late",
    "Warpgroups",
    "a_places",
    "metadata_places",
    "sum_places",
    "warpgroups_of",
]

WARPGROUPS = Instructions()
WIDTH = 128  # threads of a warpgroup

Operands = tuple[Operand, ...]
Match = re.Match[str]

_THREAD = np.arange(WIDTH)
_WARP, _GROUP, _QUAD = _THREAD // 32, _THREAD % 32 // 4, _THREAD % 4
_MOST_BYTES = 2**20 - 1  # of a phase ("mbarrier", tx-count)


class Late(IntEnum):
    """Moment at which bulk copies land and products happen."""

    ALL = 0  # when they are waited for and nothing else can run
    NONE = 1  # when they are issued
    SOME = 2  # drawn for each


@dataclass
class Mbarrier:
    """One mbarrier: arrivals and bytes that its phase still waits for."""

    expected: int
    pending: int
    bytes: int = 0
    phases: int = 0  # that are over

    def change(self, arrivals: int, bytes_: int) -> None:
        self.pending -= arrivals
        self.bytes += bytes_
        if self.pending < 0 or abs(self.bytes) > _MOST_BYTES:
            raise PtxFault("more arrivals than a phase of this mbarrier has, or more bytes")
        if self.pending == 0 and self.bytes == 0:
            self.phases += 1
            self.pending = self.expected


@dataclass
class _Bulk:
    target: int
    source: int
    width: int
    barrier: int


@dataclass
class _Product:
    """One wgmma of one warpgroup. threads: its slice of the block."""

    threads: slice
    shape: str
    run: Callable[[slice, list[Array]], None]
    a: list[Array]  # registers as they were when it was issued
    live: list[Array]  # the registers themselves


@dataclass
class Warpgroups:
    """The barriers of a block, and its copies and products that have not ended."""

    late: Late
    random: np.random.Generator
    barriers: dict[int, Mbarrier] = field(default_factory=dict)
    bulk: list[_Bulk] = field(default_factory=list)
    open: list[list[_Product]] = field(default_factory=list)  # by warpgroup: not committed
    groups: list[list[list[_Product]]] = field(default_factory=list)  # by warpgroup: committed groups
    fenced: dict[str, Array] = field(
        default_factory=dict
    )  # registers of products as the latest fence saw them
    watched: dict[str, Array] = field(default_factory=dict)  # the registers themselves
    unseen: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def begin(self, state: State) -> None:
        """Reset for a new block."""
        warpgroups = max(1, state.threads // WIDTH)
        self.barriers.clear()
        self.bulk.clear()
        self.open = [[] for _ in range(warpgroups)]
        self.groups = [[] for _ in range(warpgroups)]
        self.fenced = {name: register.copy() for name, register in self.watched.items()}
        self.unseen = np.zeros(
            len(state.shared.bytes), np.int32
        )  # 1 + the thread whose write no proxy fence followed

    def early(self) -> bool:
        return self.late == Late.NONE or (self.late == Late.SOME and bool(self.random.integers(2)))

    def barrier(self, address: int) -> Mbarrier:
        if address not in self.barriers:
            raise PtxFault("there is no mbarrier at this address")
        return self.barriers[address]

    def land(self, state: State) -> bool:
        """Land one bulk copy. Returns False when none is under way."""
        if not self.bulk:
            return False
        self._perform(state, self.bulk.pop(int(self.random.integers(len(self.bulk)))))
        return True

    def start(self, state: State, copy: _Bulk) -> None:
        if copy.target % 16 or copy.source % 16 or copy.width % 16:
            raise PtxFault("a bulk copy is not aligned to 16 bytes, or not a multiple of them")
        everything = np.arange(copy.width)
        state.memory.load(copy.source + everything, np.dtype(np.uint8))
        state.shared.store(copy.target + everything, np.full((copy.width, 1), POISON, np.uint8))
        self.barrier(copy.barrier)
        if self.early():
            self._perform(state, copy)
        else:
            self.bulk.append(copy)

    def _perform(self, state: State, copy: _Bulk) -> None:
        everything = np.arange(copy.width)
        values = state.memory.load(copy.source + everything, np.dtype(np.uint8))
        state.shared.store(copy.target + everything, values)
        self.unseen[copy.target - state.shared.base + everything] = 0  # the async proxy's own write
        self.barrier(copy.barrier).change(0, -copy.width)

    def wait(self, warpgroup: int, newest: int) -> None:
        """Finish all but the `newest` latest groups of a warpgroup."""
        groups = self.groups[warpgroup]
        while len(groups) > newest:
            for product in groups.pop(0):
                self.finish(product)

    def finish(self, product: _Product) -> None:
        if any(
            (before != now[product.threads]).any()
            for before, now in zip(product.a, product.live, strict=True)
        ):
            raise PtxFault("a register of a product was written while the product was under way")
        product.run(product.threads, product.a)

    def ended(self, left: NDArray[np.bool_]) -> None:
        """Raise PtxFault if a thread has ended before its products or copies."""
        for warpgroup, groups in enumerate(self.groups):
            if left[warpgroup * WIDTH] and (groups or self.open[warpgroup]):
                raise PtxFault("a thread ends before its products")
        if left.all() and self.bulk:
            raise PtxFault("a block ends before its bulk copies")


def warpgroups_of(state: State) -> Warpgroups:
    """The part of the state that these instructions share."""
    if state.warpgroups is None:
        state.warpgroups = Warpgroups(Late.ALL, np.random.default_rng(0))
    found: Warpgroups = state.warpgroups
    return found


# mbarrier and bulk copies


@WARPGROUPS.define(r"mbarrier\.init\.shared::cta\.b64")
def _init(state: State, match: Match, operands: Operands) -> Step:
    address, count, shared = (
        state.address(operands[0]),
        state.source(operands[1], "u32"),
        warpgroups_of(state),
    )

    def step(mask: Mask) -> None:
        at = address()
        for thread in np.flatnonzero(state.active(mask)):
            place = int(at[thread])
            state.shared.store(at[thread, None], np.zeros((1, 1), np.uint64))  # checks the address
            if place in shared.barriers:
                raise PtxFault("an mbarrier is made twice")
            shared.barriers[place] = Mbarrier(int(count[thread]), int(count[thread]))

    return step


@WARPGROUPS.define(r"mbarrier\.arrive(?P<tx>\.expect_tx)?\.shared::cta\.b64")
def _arrive(state: State, match: Match, operands: Operands) -> Step:
    if str(operands[0]) != "_" or len(operands) != (3 if match["tx"] else 2):
        raise PtxFault("only an arrival without a state is modelled")
    address, shared = state.address(operands[1]), warpgroups_of(state)
    size = state.source(operands[2], "u32") if match["tx"] else np.zeros(state.threads, np.uint32)

    def step(mask: Mask) -> None:
        at = address()
        for thread in np.flatnonzero(state.active(mask)):
            shared.barrier(int(at[thread])).change(1, int(size[thread]))

    return step


_BULK = r"cp\.async\.bulk\.shared::cluster\.global\.mbarrier::complete_tx::bytes"


@WARPGROUPS.define(_BULK)
def _bulk_copy(state: State, match: Match, operands: Operands) -> Step:
    target, source, barrier = (state.address(operands[i]) for i in (0, 1, 3))
    size, shared = state.source(operands[2], "u32"), warpgroups_of(state)

    def step(mask: Mask) -> None:
        to, at, bar = target(), source(), barrier()
        for thread in np.flatnonzero(state.active(mask)):
            shared.start(state, _Bulk(int(to[thread]), int(at[thread]), int(size[thread]), int(bar[thread])))

    return step


@WARPGROUPS.define(rf"{_BULK}\.multicast::cluster")
def _bulk_copy_to_all(state: State, match: Match, operands: Operands) -> Step:
    """Copy to the same place in every block of the mask. The barrier of each of these blocks counts the bytes."""
    target, source, barrier = (state.address(operands[i]) for i in (0, 1, 3))
    size, blocks = state.source(operands[2], "u32"), state.source(operands[4], "b16")

    def step(mask: Mask) -> None:
        to, at, bar = target(), source(), barrier()
        for thread in np.flatnonzero(state.active(mask)):
            if int(blocks[thread]) >> len(state.cluster):
                raise PtxFault("the cluster has no such block")
            for rank, peer in enumerate(state.cluster):
                if int(blocks[thread]) >> rank & 1:
                    copy = _Bulk(int(to[thread]), int(at[thread]), int(size[thread]), int(bar[thread]))
                    warpgroups_of(peer).start(peer, copy)

    return step


@WARPGROUPS.define(r"mapa\.shared::cluster\.u32")
def _address_elsewhere(state: State, match: Match, operands: Operands) -> Step:
    """Address of the same place in block `rank`: its upper 8 bits are 1 + rank."""
    a, rank = state.source(operands[1], "u32"), state.source(operands[2], "u32")
    return compute(state, operands[0], "u32", lambda: a | (rank + np.uint32(1)) << np.uint32(24))


@WARPGROUPS.define(r"mbarrier\.arrive\.release\.cluster\.shared::cluster\.b64")
def _arrive_elsewhere(state: State, match: Match, operands: Operands) -> Step:
    address = state.address(operands[1])

    def step(mask: Mask) -> None:
        at = address()
        for thread in np.flatnonzero(state.active(mask)):
            rank, place = int(at[thread]) >> 24, int(at[thread]) & 0xFFFFFF
            if not 1 <= rank <= len(state.cluster):
                raise PtxFault("this is no address in a block of the cluster")
            warpgroups_of(state.cluster[rank - 1]).barrier(place).change(1, 0)

    return step


@WARPGROUPS.define(r"fence\.mbarrier_init\.release\.cluster|barrier\.cluster\.arrive\.release\.aligned")
def _order(state: State, match: Match, operands: Operands) -> Step:
    return lambda mask: None  # the wait that follows an arrival at the cluster's barrier does all of it


@WARPGROUPS.define(r"fence\.proxy\.async\.shared::cta")
def _proxy_fence(state: State, match: Match, operands: Operands) -> Step:
    """From now on the async proxy sees what these threads wrote before, if it has arrived in shared memory."""
    shared = warpgroups_of(state)

    def step(mask: Mask) -> None:
        fenced = np.concatenate([[False], state.active(mask)])
        shared.unseen[fenced[shared.unseen]] = 0

    return step


@WARPGROUPS.define(r"setmaxnreg\.(?:inc|dec)\.sync\.aligned\.u32")
def _registers(state: State, match: Match, operands: Operands) -> Step:
    if not 24 <= int(str(operands[0])) <= 256 or int(str(operands[0])) % 8:
        raise PtxFault("a number of registers is a multiple of 8 from 24 to 256")
    return lambda mask: None


# Products. Registers of A, sums and metadata of a warp: figures of 9.7.15.5.1.1 and 9.7.15.6.3, which are those of
# mma.m16n8k16 and of mma.sp.m16n8k32 for the 16 rows from 16 * (warp of the warpgroup).


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


@WARPGROUPS.define(
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
            product = _Product(
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


@WARPGROUPS.define(r"wgmma\.fence\.sync\.aligned")
def _fence(state: State, match: Match, operands: Operands) -> Step:
    shared = warpgroups_of(state)

    def step(mask: Mask) -> None:
        active = state.active(mask)
        for name, register in shared.watched.items():
            shared.fenced[name][active] = register[active]

    return step


@WARPGROUPS.define(r"wgmma\.commit_group\.sync\.aligned")
def _commit(state: State, match: Match, operands: Operands) -> Step:
    shared = warpgroups_of(state)

    def step(mask: Mask) -> None:
        for warpgroup in np.flatnonzero(state.active(mask).reshape(-1, WIDTH).all(1)):
            shared.groups[warpgroup].append(shared.open[warpgroup])
            shared.open[warpgroup] = []

    return step


@WARPGROUPS.define(r"wgmma\.wait_group\.sync\.aligned")
def _wait(state: State, match: Match, operands: Operands) -> Step:
    shared, newest = warpgroups_of(state), int(str(operands[0]))

    def step(mask: Mask) -> None:
        for warpgroup in np.flatnonzero(state.active(mask).reshape(-1, WIDTH).all(1)):
            shared.wait(int(warpgroup), newest)

    return step
