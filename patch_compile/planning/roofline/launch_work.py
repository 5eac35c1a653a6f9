"""Work of a kernel launch on a card: DRAM bytes, clocks of the busiest SM, and times before and after its products.

It follows plugins/kernels/stream_kernel.cuh and plugins/kernels/tile_kernel.cuh.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from math import gcd
from typing import Any

import numpy as np

from masklearn.masks.kinds.base import TileKind
from patch_compile.hardware.cards import RatedCard, SmRates
from patch_compile.planning.roofline.assumptions import Assumptions
from patch_compile.planning.roofline.schedule import TABLE_WORDS, Config, Problem, kinds_of
from patch_compile.plugin.toolchain import plugin_sources

WARP_BYTES = {"LDSM": 512, "LDS.128": 512, "LDS.64": 256, "LDS": 128}
"""Bytes of shared memory that an instruction of a warp loads."""
# Multiply-adds of an instruction of a warp, dense and 2:4; those of 2:4 count the weights before pruning.
DENSE_FMA = {"HMMA": 16 * 8 * 16, "IMMA": 16 * 8 * 32}
_SPARSE_FMA = {"HMMA.SP": 16 * 8 * 32, "IMMA.SP": 16 * 8 * 64}
SHARED_BYTES, SCHEDULERS = 128, 4
"""Bytes of shared memory that an SM moves in a clock, and its schedulers: equal on all of these architectures."""
# Registers of an SM, and the multiple that a warp's registers are rounded up to.
_REGISTERS, _GRANULE = 65536, 256
_GROUP = 8  # token tiles that walk over the panels together (tile_kernel.cuh)


@cache
def _sass() -> dict[int, Any]:
    """Returns the kernels' entries of sass.json, by architecture."""
    kernels = json.loads((plugin_sources() / "kernels" / "sass.json").read_text())["kernels"]
    return {int(name.removeprefix("sm_")): counts for name, counts in kernels.items()}


def _code(card: RatedCard) -> Any:
    """Returns instructions and registers by configuration.

    If the plugin has no machine code for an architecture, it returns those of the newest one before it, whose PTX the
    driver compiles.
    """
    sass = _sass()
    return sass[max(sm for sm in sass if sm <= card.sm)]


@dataclass(frozen=True)
class Rates:
    """Rates of a card under assumptions: bytes a microsecond, clocks a microsecond, and rates per SM and clock."""

    bytes: float
    clocks: float
    fma: float
    sparse_fma: float
    shared: float
    l2: float
    issue: float


def rates_of(card: RatedCard, assume: Assumptions, inputs: int = 16) -> Rates:
    """Returns the rates that hybrid kernels reach on a card. inputs: bits of an element of X."""
    bandwidth, units, products = (
        assume.bandwidth * assume.hybrid,
        assume.units * assume.hybrid,
        card.products(inputs),
    )
    fma = card.fma_of(inputs) * card.rates.mma * products.tensor.value * assume.tensor * assume.hybrid
    l2 = card.l2_bytes / card.sms * bandwidth * assume.l2_rate
    return Rates(
        card.bandwidth * 1e3 * bandwidth,
        card.clock * 1e3 * assume.clock,
        fma,
        fma * card.rates.sparse * products.sparse.value * assume.sparse,
        SHARED_BYTES * units,
        l2,
        SCHEDULERS * units,
    )


def simulated_clocks(card: RatedCard, config: Config, kind: TileKind) -> int:
    """Returns the clocks of an SM for a slab in the kernels' loop, which benchmarks/kernels/issue.py simulates."""
    clocks: int = _code(card)[config.name]["cycles"][kind.name][card.is_geforce]
    return clocks


def slab_limits(
    card: RatedCard, config: Config, kind: TileKind, tokens: int, assume: Assumptions
) -> dict[str, float]:
    """Returns the clocks of an SM for one slab of a kind, by the resource that could limit them.

    "issue" is the turn of a slab in the kernels' loop, with its waits for shared memory and barriers: the simulated clocks,
    or the instructions over the issue slots, whichever is more.
    """
    rates = rates_of(card, assume, config.weights.input_bits)
    counts = _code(card)[config.name][kind.name]
    turn = simulated_clocks(card, config, kind) * assume.turn / assume.hybrid
    moved = config.slab_bytes(kinds_of(config.weights).index(kind))
    read = config.warps * sum(counts.get(name, 0) * loaded for name, loaded in WARP_BYTES.items())
    # Rows beyond the tokens are filled with zeros, not read.
    x_read = min(tokens, config.tokens) * config.x_bytes // config.tokens
    return {
        "tensor": config.warps
        * (
            sum(counts.get(name, 0) * fma for name, fma in DENSE_FMA.items()) / rates.fma
            + sum(counts.get(name, 0) * fma for name, fma in _SPARSE_FMA.items()) / rates.sparse_fma
        ),
        "shared": (read + moved + config.x_bytes) / rates.shared,
        "l2": (moved + x_read) / rates.l2,
        "issue": max(config.warps * sum(counts.values()) / rates.issue, turn),
    }


def occupancy(rates: SmRates, config: Config, registers: int) -> int:
    """Returns the number of blocks that an SM holds at a time. registers: of a thread."""
    a_warp = -(-registers * 32 // _GRANULE) * _GRANULE
    in_shared = rates.shared[0] * 1024 // (config.shared_bytes + 1024)
    return min(in_shared, _REGISTERS // (a_warp * config.warps))


def _blocks_at_once(card: RatedCard, config: Config) -> int:
    """Returns the number of blocks that an SM of a card holds."""
    return occupancy(card.rates, config, _code(card)[config.name]["registers"])


@dataclass(frozen=True)
class Work:
    """Work of a launch: DRAM bytes, clocks of the busiest SM by their limit, and microseconds before and after."""

    bytes: float
    clocks: dict[str, float]
    edges: float
    inflight: float  # bytes that all SMs have requested at a time


def _slabs_clocks(
    card: RatedCard, config: Config, problem: Problem, times: float, assume: Assumptions
) -> dict[str, float]:
    """Returns the clocks of all slabs of a token tile, multiplied by `times`, by their limit.

    Each kind of slab counts only for the resource that limits it most.
    """
    clocks: dict[str, float] = {}
    for kind, slabs in zip(kinds_of(problem.weights), problem.slabs, strict=False):
        if not slabs:
            continue
        limits = slab_limits(card, config, kind, problem.tokens, assume)
        bound = max(limits, key=lambda name: limits[name])
        clocks[bound] = clocks.get(bound, 0) + times * slabs * limits[bound]
    return clocks


def weight_bytes(problem: Problem) -> int:
    """Returns the bytes of the packed slabs with all scales, and of their index."""
    scales = problem.weights.row_bytes * problem.panels * problem.panel_rows
    return problem.weight_bytes + scales + 4 * (problem.kinds * (problem.panels + 1) + sum(problem.slabs))


def work_of(card: RatedCard, config: Config, problem: Problem, parts: int, assume: Assumptions) -> Work:
    """Returns the work of one launch of a configuration that cuts its stream into `parts`."""
    if config.streams:
        return _stream(card, config, problem, parts, assume)
    return _tiles(card, config, problem, assume)


def _weight_reads(problem: Problem, config: Config, parts: int, weights: int, kept: float) -> float:
    """Returns the mean number of times that a stream reads a weight from DRAM, over sampled panels and places in them.

    Token tiles of a panel read its slabs one after another. L2 still has a slab if at most `kept` bytes were read in
    between.
    """
    token_tiles, panels = problem.token_tiles(config), problem.panels
    if token_tiles == 1 or weights <= kept:
        return 1
    reads, places, tiles = 0, 0, np.arange(token_tiles)
    for panel in range(0, panels, -(-panels // 8)):
        for slab in (0.0, 0.25, 0.5, 0.75):
            # Times at which each token tile gets there, in lengths of a part; in one length all parts read token_tiles
            # * weights.
            starts = (panel * token_tiles + tiles + slab) * parts / problem.tiles(config)
            between = np.minimum(1, np.diff(np.sort(starts % 1)) * token_tiles) * weights
            reads += 1 + int((between > kept).sum())
            places += 1
    return reads / places


def _stream(card: RatedCard, config: Config, problem: Problem, parts: int, assume: Assumptions) -> Work:
    """Returns the work of stream_kernel.cuh, whose `parts` blocks take equal shares of all slabs and add up cut tiles."""
    rates = rates_of(card, assume)
    tiles, token_tiles = problem.tiles(config), problem.token_tiles(config)
    weights = weight_bytes(problem)
    passes = _weight_reads(problem, config, parts, weights, assume.l2_kept * (card.l2 << 20))
    x_bytes = problem.x_bytes
    # Panels may read any part of X, and find in L2 what fits there.
    again = (problem.panels - 1) * max(0, x_bytes - assume.l2_kept * (card.l2 << 20))
    activations = x_bytes + again + 2 * problem.tokens * problem.out_features
    # Parts cut tiles at parts - 1 places, of which gcd - 1 fall between tiles; each cut leaves one more piece to add
    # up.
    cuts = parts - gcd(parts, tiles)
    shared_tiles = len({j * tiles // parts for j in range(1, parts) if j * tiles % parts})
    pieces = cuts + shared_tiles
    sums = 4 * config.tokens * config.panel_rows
    busiest = -(-parts // card.sms) / parts
    clocks = _slabs_clocks(card, config, problem, token_tiles * busiest, assume)
    if pieces:
        clocks["l2"] = clocks.get("l2", 0) + 2 * pieces * sums * busiest / rates.l2
    l2, dram = assume.l2_latency / rates.clocks, assume.dram_latency / rates.clocks
    # The begin of a part is a kernel parameter, which comes from L2. Pointers that do not fit beside it come from DRAM. The
    # last tile is stored, counted and read piece by piece; then Y is stored.
    tail = l2 * ((3 + -(-parts // tiles) + 1) if pieces else 1)
    inside = 2 * (parts + 1) + problem.kinds * (problem.panels + 1) <= TABLE_WORDS
    edges = l2 + (0 if inside else dram) + tail
    resident = min(parts, card.sms * _blocks_at_once(card, config))
    inflight = bytes_in_flight(config, weights / sum(problem.slabs), resident)
    return Work(passes * weights + activations, clocks, edges, inflight)


def bytes_in_flight(config: Config, slab_bytes: float, blocks: int) -> float:
    """Returns the bytes of slabs that blocks have under way while all of them wait for their next slab."""
    return blocks * (config.stages - 1) * slab_bytes


def latency(assume: Assumptions) -> float:
    """Returns the clocks from a request to its bytes from DRAM, when all of its bandwidth is used."""
    return assume.loaded * assume.dram_latency


def _tiles(card: RatedCard, config: Config, problem: Problem, assume: Assumptions) -> Work:
    """Returns the work of tile_kernel.cuh, each of whose blocks computes a tile of Y."""
    rates, at_once = rates_of(card, assume), _blocks_at_once(card, config)
    tiles, token_tiles = problem.tiles(config), problem.token_tiles(config)
    weights, l2_bytes = weight_bytes(problem), assume.l2_kept * (card.l2 << 20)
    groups = -(-token_tiles // _GROUP)
    x_bytes = problem.x_bytes
    # The panels that run at a time read a group's X together; the next ones find it in L2 or read it again.
    panels_at_once = max(1, card.sms * at_once // min(_GROUP, token_tiles))
    x_passes = 1 if x_bytes / groups <= l2_bytes else -(-problem.panels // panels_at_once)
    passes = 1 if weights <= l2_bytes else groups
    moved = passes * weights + x_passes * x_bytes + 2 * problem.tokens * problem.out_features
    rounds = -(-tiles // card.sms)
    clocks = _slabs_clocks(card, config, problem, rounds / problem.panels, assume)
    l2, dram = assume.l2_latency / rates.clocks, assume.dram_latency / rates.clocks
    # Pointers and the first slab, then the tile of Y through shared memory and out; other blocks run on meanwhile.
    out = 2 * config.output_bytes / rates.shared / rates.clocks + l2
    each = 2 * l2 + dram + out
    edges = rounds / min(at_once, rounds) * each
    inflight = bytes_in_flight(config, config.slab_room + config.x_bytes, min(tiles, card.sms * at_once))
    return Work(moved, clocks, edges, inflight)
