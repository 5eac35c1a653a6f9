"""Emulates the shared state of sm_90a's warpgroups, PTX's mbarriers and bulk copies (PTX ISA, "mbarrier", "cp.async.bulk").

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

WARPGROUPS = Instructions()
WIDTH = 128  # threads of a warpgroup

Operands = tuple[Operand, ...]
Match = re.Match[str]

_WHOLE_WARP = 0xFFFFFFFF
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
class Product:
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
    open: list[list[Product]] = field(default_factory=list)  # by warpgroup: not committed
    groups: list[list[list[Product]]] = field(default_factory=list)  # by warpgroup: committed groups
    # Registers of products as the latest fence saw them.
    fenced: dict[str, Array] = field(default_factory=dict)
    watched: dict[str, Array] = field(default_factory=dict)  # the registers themselves
    unseen: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    # True for threads that have read shared memory since the latest bar.warp.sync of their warp.
    reads: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def begin(self, state: State) -> None:
        """Reset for a new block."""
        warpgroups = max(1, state.threads // WIDTH)
        self.barriers.clear()
        self.bulk.clear()
        self.open = [[] for _ in range(warpgroups)]
        self.groups = [[] for _ in range(warpgroups)]
        self.fenced = {name: register.copy() for name, register in self.watched.items()}
        # 1 + the thread whose write no proxy fence followed.
        self.unseen = np.zeros(len(state.shared.bytes), np.int32)
        self.reads = np.zeros(state.threads, np.bool_)

    def early(self) -> bool:
        return self.late == Late.NONE or (self.late == Late.SOME and bool(self.random.integers(2)))

    def barrier(self, address: int) -> Mbarrier:
        if address not in self.barriers:
            raise PtxFault("there is no mbarrier at this address")
        return self.barriers[address]

    def arrive(self, threads: NDArray[np.bool_]) -> None:
        """Raise PtxFault if a thread arrives for others of its warp whose reads may not be over."""
        arriving = np.repeat(threads.reshape(-1, 32).any(1), 32)
        if (arriving & ~threads & self.reads).any():
            raise PtxFault("a thread arrives for others that have read, without a bar.warp.sync")

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

    def finish(self, product: Product) -> None:
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
        shared.arrive(state.active(mask))
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
    address, shared = state.address(operands[1]), warpgroups_of(state)

    def step(mask: Mask) -> None:
        at = address()
        shared.arrive(state.active(mask))
        for thread in np.flatnonzero(state.active(mask)):
            rank, place = int(at[thread]) >> 24, int(at[thread]) & 0xFFFFFF
            if not 1 <= rank <= len(state.cluster):
                raise PtxFault("this is no address in a block of the cluster")
            warpgroups_of(state.cluster[rank - 1]).barrier(place).change(1, 0)

    return step


@WARPGROUPS.define(r"fence\.mbarrier_init\.release\.cluster|barrier\.cluster\.arrive\.release\.aligned")
def _order(state: State, match: Match, operands: Operands) -> Step:
    return lambda mask: None  # the wait that follows an arrival at the cluster's barrier does all of it


@WARPGROUPS.define(r"bar\.warp\.sync")
def _meet(state: State, match: Match, operands: Operands) -> Step:
    """From now on all actions of any lane of the warp come after all their reads."""
    lanes, shared = state.source(operands[0], "b32"), warpgroups_of(state)

    def step(mask: Mask) -> None:
        if (lanes[mask] != _WHOLE_WARP).any():
            raise PtxFault("a barrier of a part of a warp is not modelled")
        shared.reads &= ~state.active(mask)

    return step


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
