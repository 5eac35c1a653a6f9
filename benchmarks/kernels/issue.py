"""Simulates the loops over slabs of the kernels on one SM, from their machine code: the source of all cycles of a slab.

    python benchmarks/kernels/issue.py

Writes the counts and cycles that the planner reads, plugins/kernels/sass.json, what the plugin's schedule takes from them
(turns.py), and the bounds that tests hold the kernels to, budgets.json. `git diff` shows what a change of a kernel changes.

It reads an instruction's control word as ptxas wrote it (cycles to stall, scoreboards to set and to wait for), and models
in-order issue by four schedulers, the rate of the tensor cores, a single queue for all accesses of shared memory, barriers,
and the groups of cp.async. No loop takes less than L2 needs for the bytes of a slab and of the X that goes with it. It has
no instruction cache, no register banks and no DRAM. Nothing is calibrated on a GPU: figures serve to compare two versions of
a loop, within some 10 %, and promise nothing. Needs nvcc and cuobjdump.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from cubin import ARCHS, FLAGS, Function, Instruction, compile_all, find_cuobjdump
from sass import JSON, PRODUCTS, count_slab, kinds_of, slabs_of, way_of

from patch_compile.hardware.cards import architecture_of, rated_cards
from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.planning.roofline.launch_work import (
    DENSE_FMA,
    SCHEDULERS,
    SHARED_BYTES,
    WARP_BYTES,
    occupancy,
)
from patch_compile.planning.roofline.schedule import CONFIGS, Config, blocks_on
from patch_compile.planning.roofline.schedule import kinds_of as kinds_with
from patch_compile.plugin.toolchain import find_nvcc

BUDGETS = Path(__file__).resolve().with_name("budgets.json")
BUDGET_ARCHS = (80, 86)  # the budgets of sm_86 hold for sm_89; prefill on sm_90 takes the dense path

_NO_SCOREBOARD = 7
_OFFSET = re.compile(
    r"\s*\[U?R\d+(?:\.\w+)*(?:\+(?:UR\d+\+)?(-?0x[0-9a-f]+))?\]"
)  # of a copy, in shared memory


@dataclass(frozen=True)
class Timing:
    """Cycles of an SM, and the bytes of L2 that it gets in one.

    hmma, imma: between two HMMA or two IMMA of a scheduler; sparse: rate of their 2:4 forms over the dense ones, in
    multiply-adds before pruning; pipeline: from there to the result, equal for dense and 2:4 (24.0 and 24.1 cycles in all on
    an A100: Sun et al. 2022, arXiv 2206.02874). shared: from issue to the result of a load of 4 bytes a lane, if no queue is
    in the way (29 on A100 and H800: Luo et al. 2024, arXiv 2402.13499); each further 128 bytes take one cycle more. index:
    reads of the index, of which 31 of 32 columns are in L1 (33: Abdelkhalik et al. 2022, arXiv 2208.11174) and one in L2
    (263). copy: as from an idle DRAM (466 to 541 in the same papers). barrier: assumed.
    """

    hmma: float
    imma: float
    l2: float = math.inf
    sparse: float = 2.0
    pipeline: int = 16
    shared: int = 29
    index: int = 40
    copy: float = ASSUMED.dram_latency
    barrier: int = 20

    def of(self, opcode: str) -> float:
        """Returns the cycles between two products of a scheduler.

        A product of 2:4 weights has twice the columns. IMMA.SP.16832, which has as many columns as the dense IMMA, is taken
        to be no faster than it: an A100 runs small 2:4 products at .65 of the rate of the large ones (Sun et al.).
        """
        return self._dense(opcode) * (2 / self.sparse if ".SP" in opcode else 1)

    def latency(self, opcode: str) -> float:
        """Returns the cycles from a product's issue to its result."""
        return self._dense(opcode) + self.pipeline

    def _dense(self, opcode: str) -> float:
        return self.imma if opcode.startswith("IMMA") else self.hmma


def timing_of(arch: int, geforce: bool = False) -> Timing:
    """Returns the timing of an architecture. `geforce`: half the rate of products with fp32 sums; int32 sums keep theirs.

    An HMMA.SP.16832 takes as long as an HMMA.16816 where 2:4 products are twice as fast. An IMMA.16832 has twice as many
    multiply-adds, and takes as long: data sheets of all architectures give int8 products twice the rate of fp16 (A100: 624
    and 312 TOP/s, A6000: 310 and 155, L40S: 733 and 362, H100: 1979 and 989, RTX PRO 6000: 1008 and 504), and an
    IMMA.SP.16864 too. L2 is that of the architecture's card with the least.
    """
    rates = architecture_of(arch).rates
    assert rates is not None
    product = DENSE_FMA["HMMA"] * SCHEDULERS / int(rates.fma * rates.mma)
    l2 = min(card.l2_bytes / card.sms for card in rated_cards() if card.sm == arch) * ASSUMED.bandwidth
    return Timing(product * (2 if geforce else 1), product, l2, rates.sparse)


@dataclass
class _Warp:
    block: int
    scheduler: int
    at: int = 0  # next instruction
    turn: int = 0
    free: float = 0  # first cycle at which it may issue
    scoreboards: list[float] = field(default_factory=lambda: [0.0] * 6)
    waits: bool = False  # at the barrier
    copied: float = 0  # when the copies since the last group arrive
    groups: list[float] = field(default_factory=list)


class _Sm:
    def __init__(
        self, way: Sequence[Instruction], warps: int, blocks: int, timing: Timing, turns: int, first: int
    ) -> None:
        self.way, self.timing, self.turns, self.first, self.size = way, timing, turns, first, warps
        self.warps = [_Warp(b, (b * warps + w) % SCHEDULERS) for b in range(blocks) for w in range(warps)]
        self.issue_free = [0.0] * SCHEDULERS
        self.tensor_free = [0.0] * SCHEDULERS
        self.shared_free = 0.0
        self.issued = 0  # instructions of all warps
        self.marks: list[tuple[float, int]] = []  # time and `issued` at each barrier of the first block
        self.boards = [[board for board in range(6) if i.waits >> board & 1] for i in way]
        self.products = [i.opcode.startswith(PRODUCTS) for i in way]

    def run(self) -> float:
        """Cycles per slab of the SM, from the end of the first ways of the first block to its last."""
        each = max(1, slabs_of(self.way))  # barriers of a way
        while len(self.marks) < (self.first + self.turns - 1) * each + 1:
            warp = min(
                (w for w in self.warps if not w.waits), key=self.ready
            )  # the oldest of those ready first
            self.step(warp, self.ready(warp))
        (begin, before), (end, after) = self.marks[self.first * each], self.marks[-1]
        slabs = (after - before) / (len(self.way) * self.size) * each
        return (end - begin) / slabs

    def ready(self, warp: _Warp) -> float:
        time = max(warp.free, self.issue_free[warp.scheduler])
        for board in self.boards[warp.at]:
            time = max(time, warp.scoreboards[board])
        return max(time, self.tensor_free[warp.scheduler]) if self.products[warp.at] else time

    def step(self, warp: _Warp, now: float) -> None:
        i = self.way[warp.at]
        self.issue_free[warp.scheduler] = now + 1
        done = self.execute(i, warp, now)
        if i.writes != _NO_SCOREBOARD:
            warp.scoreboards[i.writes] = max(warp.scoreboards[i.writes], done)
        if i.reads != _NO_SCOREBOARD:  # operands are read soon after issue
            warp.scoreboards[i.reads] = max(warp.scoreboards[i.reads], min(done, now + 12))
        warp.free = max(warp.free, now + max(1, i.stall))
        self.issued += 1
        warp.at += 1
        if warp.at == len(self.way):
            warp.at, warp.turn = 0, warp.turn + 1
        if i.opcode.startswith("BAR"):
            self.arrive(warp, now)

    def execute(self, i: Instruction, warp: _Warp, now: float) -> float:
        """Returns the cycle at which an instruction's result is there."""
        t, op = self.timing, i.opcode
        if i.guard == "@!PT":  # padding of ptxas, or a copy that this kind of slab does not need
            return now + 1
        if op.startswith(PRODUCTS):
            taken = t.of(op)
            self.tensor_free[warp.scheduler] = now + taken
            return now + t.latency(op)
        if op.startswith("LDGSTS"):
            warp.copied = max(warp.copied, now + t.copy)
            return self.share(now, 512) + 10
        if op.startswith(("LDS", "STS", "SHFL")):  # shuffles wait in the same queue
            like = f"{op}.".replace("STS", "LDS")
            size = next((size for name, size in WARP_BYTES.items() if like.startswith(f"{name}.")), 128)
            return self.share(now, size) + t.shared + size // SHARED_BYTES - 1
        if op == "LDGDEPBAR":
            warp.groups.append(warp.copied)
            warp.copied = 0
        elif op.startswith("DEPBAR"):
            open_groups = int(i.operands.split(",")[-1], 16)
            landed = warp.groups[: len(warp.groups) - open_groups]
            warp.free = max([warp.free, *landed[-1:]])
        return now + (t.index if op.startswith("LDG") else 12)

    def share(self, now: float, size: int) -> float:
        """Returns the cycle at which shared memory begins an access, after those before it."""
        begin = max(now, self.shared_free)
        self.shared_free = begin + size / SHARED_BYTES
        return begin

    def arrive(self, warp: _Warp, now: float) -> None:
        warp.waits = True
        block = [w for w in self.warps if w.block == warp.block]
        if not all(w.waits for w in block):
            return
        for w in block:
            w.waits, w.free = False, max(w.free, now + self.timing.barrier)
        if warp.block == 0:
            self.marks.append((now, self.issued))


def cycles_per_slab(
    way: Sequence[Instruction], warps: int, timing: Timing, blocks: int = 1, turns: int = 20, first: int = 1
) -> float:
    """Returns the cycles that an SM takes for a slab of one block, in the steady state.

    way: instructions of one turn of the loop, with a barrier for each slab. warps: of a block. blocks: resident on the SM.
    turns: of the loop, after the `first` ones, which wait for no copy. If two warps could issue at the same cycle, the older
    warp does.
    """
    return _Sm(way, warps, blocks, timing, turns, first).run()


def stalls_to_first_product(way: Sequence[Instruction]) -> int:
    """Returns the cycles that a warp spends on issuing and stalling between its barrier and the next product."""
    barrier = next(n for n, i in enumerate(way) if i.opcode.startswith("BAR"))
    around = [*way[barrier:], *way[:barrier]]
    first = next(n for n, i in enumerate(around) if i.opcode.startswith(PRODUCTS))
    return sum(max(1, i.stall) for i in around[:first])


def blocks_of(config: Config, registers: int, arch: int) -> int:
    """Returns the blocks of a configuration that run on an SM: as many as fit, or as many as a stream is cut for.

    A stream is cut for the card of the architecture that has the most SMs.
    """
    rates = architecture_of(arch).rates
    assert rates is not None
    fit = occupancy(rates, config, registers)
    sms = max((card.sms for card in rated_cards() if card.sm == arch), default=1)
    return min(fit, blocks_on(config, sms)) if config.streams else fit


class Loop(NamedTuple):
    """Figures of the loop over slabs of one kind.

    cycles: of a slab, at least those that its products and its bytes from L2 take.
    """

    cycles: int
    stalls: int
    instructions: int
    products: int


def loop_figures(
    kernel: Function,
    config: Config,
    kind: str,
    arch: int,
    geforce: bool = False,
    blocks: int | None = None,
) -> Loop:
    """Returns the figures of one kernel's loop over slabs of `kind`. blocks: on an SM, None for as many as run there."""
    way, timing = way_executed(kernel.code, config, kind), timing_of(arch, geforce)
    blocks = blocks or blocks_of(config, kernel.registers, arch)
    products = [i.opcode for i in way if i.opcode.startswith(PRODUCTS)]
    ideal = sum(map(timing.of, products)) * config.warps / SCHEDULERS / slabs_of(way)
    from_l2 = (slab_bytes(config, kind) + config.x_bytes) / timing.l2
    simulated = cycles_per_slab(way, config.warps, timing, blocks, first=config.stages)
    cycles = max(simulated, ideal, from_l2)
    return Loop(round(cycles), stalls_to_first_product(way), len(way), len(products))


def slab_bytes(config: Config, kind: str) -> int:
    """Returns the bytes of a slab of W, which come from DRAM; the bytes of X come from L2."""
    names = [one.name for one in kinds_with(config.weights)]
    return config.slab_bytes(names.index(kind))


def way_executed(code: Sequence[Instruction], config: Config, kind: str) -> list[Instruction]:
    """Returns the way through the loop over slabs of `kind`, with those copies marked as not executed that none needs."""
    return executed(way_of(code, kind, config.weights), config, slab_bytes(config, kind))


def executed(way: Sequence[Instruction], config: Config, size: int) -> list[Instruction]:
    """Marks the copies that a slab of W of `size` bytes does not need, and copies of X by 8 bytes, as not executed.

    The slab lies at the begin of a slot of shared memory, to which copies have constant offsets, and X behind its room.
    """
    needed = -(-size // (512 * config.warps)) * 512 * config.warps
    found = []
    for i in way:
        if i.opcode.startswith("LDGSTS"):
            offset = int(_OFFSET.match(i.operands)[1] or "0", 16)
            if ".64" in i.opcode or needed <= offset < config.slab_room:
                i = i._replace(guard="@!PT")
        found.append(i)
    return found


def figures_of(kernels: Mapping[int, Function], arch: int) -> dict[str, Any]:
    """Returns registers, spilled bytes and the figures of all loops of all kernels of one binary, by configuration."""

    def figures(kernel: Function, config: Config) -> dict[str, Any]:
        loops = {kind: loop_figures(kernel, config, kind, arch) for kind in kinds_of(config)}
        return {"registers": kernel.registers, "spills": kernel.spills} | loops

    return {CONFIGS[number].name: figures(kernel, CONFIGS[number]) for number, kernel in kernels.items()}


def counts_of(figures: dict[str, Any], kernels: Mapping[int, Function], arch: int) -> dict[str, Any]:
    """Returns registers, instructions and cycles per slab of every configuration, for sass.json.

    cycles: by kind, of an SM with the architecture's full tensor rate, and of an SM with a GeForce card's half rate. alone:
    the same with one block on the SM.
    """

    def counts(kernel: Function, config: Config) -> dict[str, Any]:
        kinds = kinds_of(config)

        def cycles(kind: str, geforce: bool, blocks: int | None = None) -> int:
            return loop_figures(kernel, config, kind, arch, geforce, blocks).cycles

        shared = {kind: [figures[config.name][kind].cycles, cycles(kind, True)] for kind in kinds}
        alone = shared
        if blocks_of(config, kernel.registers, arch) > 1:
            alone = {kind: [cycles(kind, False, 1), cycles(kind, True, 1)] for kind in kinds}
        slabs = {kind: count_slab(kernel.code, kind, config.weights) for kind in kinds}
        return {"registers": kernel.registers, "cycles": shared, "alone": alone} | slabs

    return {CONFIGS[number].name: counts(kernel, CONFIGS[number]) for number, kernel in kernels.items()}


def budget_of(figures: dict[str, Any]) -> dict[str, Any]:
    """Returns the bounds for one configuration: its figures with some room for edits that do not touch the loop."""
    loops = {
        kind: {
            "cycles": round(1.05 * loop.cycles),
            "stalls": loop.stalls + 20,
            "instructions per product": round(1.05 * loop.instructions / loop.products, 2),
        }
        for kind, loop in figures.items()
        if isinstance(loop, Loop)
    }
    return {"registers": figures["registers"], "spills": figures["spills"]} | loops


def _of_architecture(arch: int, nvcc: Path, cuobjdump: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compile the fp16 kernels; returns the figures of their loops, and the counts for sass.json."""
    with tempfile.TemporaryDirectory() as folder:
        kernels = compile_all("half", arch, nvcc, cuobjdump, Path(folder))
    figures = figures_of(kernels, arch)
    return figures, counts_of(figures, kernels, arch)


def main() -> int:
    """Compile the fp16 kernels, simulate their loops and write the files; returns the exit code."""
    nvcc, cuobjdump = find_nvcc(), find_cuobjdump()
    if cuobjdump is None:
        print("error: cuobjdump and nvdisasm are in no CUDA toolkit here", file=sys.stderr)
        return 1
    with ProcessPoolExecutor() as pool:
        each = pool.map(_of_architecture, ARCHS, *([tool] * len(ARCHS) for tool in (nvcc.path, cuobjdump)))
        by_arch = dict(zip(ARCHS, each, strict=True))
    counts = {f"sm_{arch}": own for arch, (_, own) in by_arch.items()}
    about = {"nvcc": nvcc.version, "flags": " ".join(FLAGS), "kernels": counts}
    bounds = {
        f"sm_{arch}": {name: budget_of(figures) for name, figures in by_arch[arch][0].items()}
        for arch in BUDGET_ARCHS
    }
    JSON.write_text(json.dumps(about, indent=1) + "\n")
    BUDGETS.write_text(json.dumps({"nvcc": nvcc.version} | bounds, indent=1) + "\n")
    turns = Path(__file__).with_name("turns.py")  # of a process that has not read the former sass.json
    subprocess.run([sys.executable, turns], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
