"""`choose_schedule` of `plugins/kernels/schedule.h` in Python: the configuration and the parts that the plugin chooses.

A test compares the two. Left out is the refusal of streams that are too long for their table of parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil

from patch_compile.hardware.cards import RatedCard, rated_cards
from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.planning.roofline.launch_work import (
    SHARED_BYTES,
    blocks_at_once,
    l2_pace,
    sass_architectures,
    slab_limits,
)
from patch_compile.planning.roofline.schedule import (
    CONFIGS,
    Config,
    Problem,
    ceil_div,
    constant,
    kinds_of,
    max_parts,
    pieces_of,
    weight_reads,
    x_bytes_read,
)

DRAM_CLOCKS = constant("schedule.h", "kDramClocks")  # of which `DeviceLimits.dram` counts the bytes
INTERFERENCE = 8  # one such part of the shorter of two times that overlap is added to the longer
L2_LATENCY, DRAM_LATENCY = round(ASSUMED.l2_latency), round(ASSUMED.dram_latency)
LOADED_LATENCY = round(ASSUMED.dram_latency * ASSUMED.loaded)
SHARED_PACE = int(SHARED_BYTES * ASSUMED.units)
"""Bytes of shared memory that an SM moves in a clock."""


@dataclass(frozen=True)
class Turns:
    """A row of kTurns in plugins/kernels/turns.h: clocks of an SM of cards of one kind.

    sm: 86 for compute capability 8.6; geforce: see `RatedCard.is_geforce`; l2: bytes of L2 that an SM gets in a clock;
    dense_fma: multiply-adds of 16-bit values by cuBLASLt. blocks: of each configuration that an SM holds; clocks: for a
    slab of each of its kinds; alone: the same if the SM has one block.
    """

    sm: int
    geforce: bool
    l2: int
    dense_fma: int
    blocks: tuple[int, ...]
    clocks: tuple[tuple[int, ...], ...]
    alone: tuple[tuple[int, ...], ...]


@cache
def all_turns() -> tuple[Turns, ...]:
    """Returns the rows by architecture, GeForce cards behind others. The first card of each kind stands for it."""
    cards = {
        (card.sm, card.is_geforce): card
        for card in reversed(rated_cards())
        if card.sm in sass_architectures()
    }
    return tuple(_turns(cards[key]) for key in sorted(cards))


def _turns(card: RatedCard) -> Turns:
    def clocks(config: Config, blocks: int | None) -> tuple[int, ...]:
        kinds = kinds_of(config.weights)[: config.kinds]
        limits = (slab_limits(card, config, kind, config.tokens, ASSUMED, blocks) for kind in kinds)
        return tuple(ceil(max(own.values())) for own in limits)

    return Turns(
        card.sm,
        card.is_geforce,
        int(l2_pace(card, ASSUMED)),
        int(card.fma_of(16) * card.products(16).tensor.value),
        tuple(blocks_at_once(card, config) for config in CONFIGS),
        tuple(clocks(config, None) for config in CONFIGS),
        tuple(clocks(config, 1) for config in CONFIGS),
    )


@cache
def turns_of(sm: int, *, geforce: bool) -> Turns:
    """`turns_of` of schedule.h: the row of the newest architecture up to a device's, or the first row if it is older."""
    rows = all_turns()
    newest = max((row.sm for row in rows if row.sm <= sm), default=rows[0].sm)
    alike = [row for row in rows if row.sm == newest]
    return next((row for row in alike if row.geforce == geforce), alike[0])


@dataclass(frozen=True)
class DeviceLimits:
    """`Device` of plugins/kernels/schedule.h: limits of a card that schedules depend on.

    Sizes are in bytes; shared_bytes is for one block. dram: bytes that an SM gets from DRAM in 1,024 clocks.
    """

    sms: int
    shared_bytes: int
    l2_bytes: int
    dram: int
    sm: int
    geforce: bool = False


def limits_of(card: RatedCard) -> DeviceLimits:
    """Returns the limits of a card, equal to the limits that the plugin finds when it runs there."""
    dram = int(card.bytes_a_clock * ASSUMED.bandwidth * DRAM_CLOCKS)
    return DeviceLimits(card.sms, card.rates.shared[1] << 10, card.l2 << 20, dram, card.sm, card.is_geforce)


def predicted_clocks(problem: Problem, number: int, parts: int, device: DeviceLimits) -> int:
    """`predicted_clocks` of schedule.h: clocks of a launch, less what all configurations take."""
    if problem.tokens == 0:
        return 0
    config, turns = CONFIGS[number], turns_of(device.sm, geforce=device.geforce)
    sms, l2_kept = max(device.sms, 1), device.l2_bytes // 2
    tiles, blocks = problem.tiles(config), turns.blocks[number]
    busiest = ceil_div(parts if config.streams else tiles, sms)
    each = zip(problem.slabs, turns.clocks[number], turns.alone[number], strict=False)
    slabs = sum(count * max(full, alone // busiest) for count, full, alone in each if count)
    moved = problem.weight_bytes * weight_reads(problem, config, parts, l2_kept)
    moved += x_bytes_read(problem, config, sms, l2_kept) + 2 * problem.tokens * problem.out_features
    out = 2 * config.output_bytes // SHARED_PACE
    if not config.streams:
        edges = busiest * (3 * L2_LATENCY + DRAM_LATENCY + out) // min(blocks, busiest)
        in_flight = min(tiles, sms * blocks) * (config.stages - 1) * (config.slab_room + config.x_bytes)
        return edges + _overlapped(busiest * slabs // problem.panels, _from_dram(moved, in_flight, device))
    computed = (problem.token_tiles(config) * slabs + tiles * out) * busiest // parts
    pieces = pieces_of(parts, tiles)
    edges = L2_LATENCY * (2 if not pieces else 5 + ceil_div(parts, tiles))
    if pieces:
        computed += 8 * pieces * config.sums * busiest // (parts * turns.l2)
    if not problem.pointers_fit(parts):
        edges += DRAM_LATENCY
    in_flight = min(parts, sms * blocks) * (config.stages - 1) * problem.weight_bytes
    in_flight //= max(1, sum(problem.slabs))
    return edges + _overlapped(computed, _from_dram(moved, in_flight, device))


def _overlapped(a: int, b: int) -> int:
    """`overlapped` of schedule.h: the longer of two times that overlap, and a share of the other for their interference."""
    return max(a, b) + min(a, b) // INTERFERENCE


def _from_dram(moved: int, in_flight: int, device: DeviceLimits) -> int:
    """`from_dram` of schedule.h: clocks in which all SMs read so many bytes, of which they have some under way at a time."""
    return max(
        moved * DRAM_CLOCKS // (max(device.sms, 1) * max(device.dram, 1)),
        moved * LOADED_LATENCY // max(in_flight, 1),
    )


def choose_schedule(problem: Problem, device: DeviceLimits, config: int | None = None) -> tuple[int, int]:
    """Returns (configuration, parts). The configuration is -1 if none fits the packing and the device."""
    best, best_clocks = (-1, 1), 0
    if problem.tokens < 0:
        return best
    for number in range(len(CONFIGS)) if config is None else (config,):
        if not problem.suits(CONFIGS[number]) or CONFIGS[number].shared_bytes > device.shared_bytes:
            continue
        for parts in dict.fromkeys(parts_tried(problem, CONFIGS[number], device)):
            clocks = predicted_clocks(problem, number, parts, device)
            if best[0] < 0 or clocks < best_clocks:
                best, best_clocks = (number, parts), clocks
    return best


def parts_tried(problem: Problem, config: Config, device: DeviceLimits) -> tuple[int, ...]:
    """Returns the numbers of parts among which the schedule chooses."""
    most, tiles = max_parts(problem, config, device.sms), problem.tiles(config)
    return (1, most, min(most, device.sms), *(min(most, many * tiles) for many in (1, 2, 4)))
