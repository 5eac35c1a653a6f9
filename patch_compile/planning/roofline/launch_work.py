"""Work of a kernel launch on a card: DRAM bytes, clocks of the busiest SM, and times before and after its products.

It follows plugins/kernels/stream_kernel.cuh and plugins/kernels/tile_kernel.cuh.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from masklearn.masks.kinds.base import TileKind
from patch_compile.hardware.cards import RatedCard, SmRates
from patch_compile.planning.roofline.assumptions import Assumptions
from patch_compile.planning.roofline.schedule import (
    Config,
    Problem,
    kinds_of,
    pieces_of,
    weight_reads,
    x_bytes_read,
)
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


@cache
def _sass() -> dict[int, Any]:
    """Returns the kernels' entries of sass.json, by architecture."""
    kernels = json.loads((plugin_sources() / "kernels" / "sass.json").read_text())["kernels"]
    return {int(name.removeprefix("sm_")): counts for name, counts in kernels.items()}


def sass_architectures() -> tuple[int, ...]:
    return tuple(_sass())


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


def l2_pace(card: RatedCard, assume: Assumptions) -> float:
    """Returns the bytes of L2 that an SM gets in a clock."""
    return card.l2_bytes / card.sms * assume.bandwidth * assume.hybrid * assume.l2_rate


def rates_of(card: RatedCard, assume: Assumptions, inputs: int = 16) -> Rates:
    """Returns the rates that hybrid kernels reach on a card. inputs: bits of an element of X."""
    bandwidth, units, products = (
        assume.bandwidth * assume.hybrid,
        assume.units * assume.hybrid,
        card.products(inputs),
    )
    fma = card.fma_of(inputs) * card.rates.mma * products.tensor.value * assume.tensor * assume.hybrid
    return Rates(
        card.bandwidth * 1e3 * bandwidth,
        card.clock * 1e3 * assume.clock,
        fma,
        fma * min(card.rates.sparse, 2 * products.sparse.value * assume.sparse),
        SHARED_BYTES * units,
        l2_pace(card, assume),
        SCHEDULERS * units,
    )


def simulated_clocks(card: RatedCard, config: Config, kind: TileKind, blocks: int | None = None) -> float:
    """Returns the clocks of an SM for a slab in the kernels' loop, which benchmarks/kernels/issue.py simulates.

    blocks: on the SM, None for as many as it holds. With fewer, each is taken to keep the pace of a block alone on an SM.
    """
    counts = _code(card)[config.name]
    full, alone = (float(counts[what][kind.name][card.is_geforce]) for what in ("cycles", "alone"))
    return max(full, alone / blocks) if blocks else full


def slab_limits(
    card: RatedCard,
    config: Config,
    kind: TileKind,
    tokens: int,
    assume: Assumptions,
    blocks: int | None = None,
) -> dict[str, float]:
    """Returns the clocks of an SM for one slab of a kind, by the resource that could limit them. blocks: see
    `simulated_clocks`.

    "issue" is the turn of a slab in the kernels' loop, with its waits for shared memory and barriers: the simulated clocks,
    or the instructions over the issue slots, whichever is more.
    """
    rates = rates_of(card, assume, config.weights.input_bits)
    counts = _code(card)[config.name][kind.name]
    turn = simulated_clocks(card, config, kind, blocks) * assume.turn / assume.hybrid
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


def blocks_at_once(card: RatedCard, config: Config) -> int:
    return occupancy(card.rates, config, _code(card)[config.name]["registers"])


@dataclass(frozen=True)
class Work:
    """Work of a launch: DRAM bytes, clocks of the busiest SM by their limit, and microseconds before and after."""

    bytes: float
    clocks: dict[str, float]
    edges: float
    inflight: float  # bytes that all SMs have requested at a time


def _slabs_clocks(
    card: RatedCard, config: Config, problem: Problem, times: float, assume: Assumptions, blocks: int
) -> dict[str, float]:
    """Returns the clocks of all slabs of a token tile, multiplied by `times`, by their limit.

    Each kind of slab counts only for the resource that limits it most. blocks: see `simulated_clocks`.
    """
    clocks: dict[str, float] = {}
    for kind, slabs in zip(kinds_of(problem.weights), problem.slabs, strict=False):
        if not slabs:
            continue
        limits = slab_limits(card, config, kind, problem.tokens, assume, blocks)
        bound = max(limits, key=lambda name: limits[name])
        clocks[bound] = clocks.get(bound, 0) + times * slabs * limits[bound]
    return clocks


def weight_bytes(problem: Problem) -> int:
    """Returns the bytes of the packed slabs with all scales, and of their index."""
    scales = problem.weights.row_bytes * problem.panels * problem.panel_rows
    pointers = problem.kinds * (problem.panels + 1)
    return problem.weight_bytes + scales + 4 * (pointers + sum(problem.slabs))


def work_of(card: RatedCard, config: Config, problem: Problem, parts: int, assume: Assumptions) -> Work:
    if config.streams:
        return _stream(card, config, problem, parts, assume)
    return _tiles(card, config, problem, assume)


def _stream(card: RatedCard, config: Config, problem: Problem, parts: int, assume: Assumptions) -> Work:
    """Returns the work of stream_kernel.cuh, whose `parts` blocks take equal shares of all slabs and add up cut tiles."""
    rates = rates_of(card, assume)
    tiles, token_tiles = problem.tiles(config), problem.token_tiles(config)
    weights = weight_bytes(problem)
    l2_kept = int(assume.l2_kept * (card.l2 << 20))
    passes = weight_reads(problem, config, parts, l2_kept)
    activations = x_bytes_read(problem, config, card.sms, l2_kept) + 2 * problem.tokens * problem.out_features
    pieces = pieces_of(parts, tiles)
    sums = 4 * config.sums
    busiest = -(-parts // card.sms) / parts
    clocks = _slabs_clocks(card, config, problem, token_tiles * busiest, assume, -(-parts // card.sms))
    clocks["shared"] = clocks.get("shared", 0) + tiles * busiest * _store_clocks(config, rates)
    if pieces:
        clocks["l2"] = clocks.get("l2", 0) + 2 * pieces * sums * busiest / rates.l2
    l2, dram = assume.l2_latency / rates.clocks, assume.dram_latency / rates.clocks
    # The begin of a part is a kernel parameter, which comes from L2. Pointers that do not fit beside it come from DRAM. The
    # last tile is stored, counted and read piece by piece; then Y is stored.
    tail = l2 * ((3 + -(-parts // tiles) + 1) if pieces else 1)
    edges = l2 + (0 if problem.pointers_fit(parts) else dram) + tail
    resident = min(parts, card.sms * blocks_at_once(card, config))
    inflight = bytes_in_flight(config, weights / sum(problem.slabs), resident)
    return Work(passes * weights + activations, clocks, edges, inflight)


def _store_clocks(config: Config, rates: Rates) -> float:
    """Returns the clocks of an SM in which a tile of Y is stored, by way of shared memory or as slowly."""
    return 2 * config.output_bytes / rates.shared


def bytes_in_flight(config: Config, slab_bytes: float, blocks: int) -> float:
    """Returns the bytes of slabs that blocks have under way while all of them wait for their next slab."""
    return blocks * (config.stages - 1) * slab_bytes


def _tiles(card: RatedCard, config: Config, problem: Problem, assume: Assumptions) -> Work:
    """Returns the work of tile_kernel.cuh, each of whose blocks computes a tile of Y."""
    rates, at_once = rates_of(card, assume), blocks_at_once(card, config)
    tiles = problem.tiles(config)
    l2_kept = int(assume.l2_kept * (card.l2 << 20))
    moved = weight_reads(problem, config, 1, l2_kept) * weight_bytes(problem)
    moved += x_bytes_read(problem, config, card.sms, l2_kept) + 2 * problem.tokens * problem.out_features
    rounds = -(-tiles // card.sms)
    clocks = _slabs_clocks(card, config, problem, rounds / problem.panels, assume, rounds)
    l2, dram = assume.l2_latency / rates.clocks, assume.dram_latency / rates.clocks
    # Pointers and the first slab, then the tile of Y through shared memory and out; other blocks run on meanwhile.
    out = _store_clocks(config, rates) / rates.clocks + l2
    each = 2 * l2 + dram + out
    edges = rounds / min(at_once, rounds) * each
    inflight = bytes_in_flight(config, config.slab_room + config.x_bytes, min(tiles, card.sms * at_once))
    return Work(moved, clocks, edges, inflight)
