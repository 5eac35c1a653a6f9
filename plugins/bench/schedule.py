"""`kernels/config.h` and `kernels/schedule.h` in Python, for the roofline: the table of configurations is read from
the header, the choice among them repeated here (a test holds the two together).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CONFIGS", "Config", "Problem", "choose_schedule"]

SLAB = 64  # columns of K
_TILE_COST, _DENSE_COST, _SPARSE_COST = 4, 16, 9  # kernels/work.h
_MAX_SMS, _MIN_SLABS_PER_PART = 192, 2
_DRAM_TOKENS, _L2_TOKENS, _TURN_TOKENS, _ADD_UP, _SUMS_PER_UNIT = 200, 64, 16, 300, 700
_STAYS_IN_L2, _TILES_PER_GROUP = 4 << 20, 8
_LINE = re.compile(r'\{"([\w-]+)", Kernel::k(\w+), ' + ", ".join([r"(\d+)"] * 6) + r"(, true)?[,}]")


@dataclass(frozen=True)
class Config:
    """A line of kConfigs, and of what `Geometry` derives from it what the roofline needs; bytes."""

    name: str
    streams: bool
    panel_rows: int
    tokens: int
    feature_warps: int
    token_warps: int
    stages: int
    blocks_per_sm: int
    gated: bool  # for a gate and an up packed together, which the roofline leaves out

    @property
    def warps(self) -> int:
        return self.feature_warps * self.token_warps

    @property
    def dense_bytes(self) -> int:
        return self.panel_rows * SLAB * 2

    @property
    def sparse_bytes(self) -> int:
        """Of a 2:4 slab, with its metadata."""
        return self.panel_rows * 72

    @property
    def x_bytes(self) -> int:
        return self.tokens * SLAB * 2

    @property
    def output_bytes(self) -> int:
        return self.tokens * (self.panel_rows + 8) * 2

    @property
    def shared_bytes(self) -> int:
        ring = self.stages * (self.dense_bytes + self.x_bytes)
        return ring if self.streams else max(ring, self.output_bytes)


def _read_configs() -> tuple[Config, ...]:
    header = Path(__file__).resolve().parents[1] / "kernels" / "config.h"
    return tuple(
        Config(name, kind == "Stream", *map(int, numbers), bool(gated))
        for name, kind, *numbers, gated in _LINE.findall(header.read_text())
    )


CONFIGS = _read_configs()


@dataclass(frozen=True)
class Problem:
    """`Problem` of schedule.h."""

    tokens: int
    out_features: int
    in_features: int
    panel_rows: int
    dense_slabs: int
    sparse_slabs: int

    @property
    def panels(self) -> int:
        return _ceil_div(self.out_features, self.panel_rows)

    @property
    def slabs_cost(self) -> int:
        return self.dense_slabs * _DENSE_COST + self.sparse_slabs * _SPARSE_COST

    def token_tiles(self, config: Config) -> int:
        return _ceil_div(self.tokens, config.tokens)

    def tiles(self, config: Config) -> int:
        return self.panels * self.token_tiles(config)

    def total_cost(self, config: Config) -> int:
        return self.token_tiles(config) * (self.panels * _TILE_COST + self.slabs_cost)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _max_parts(problem: Problem, config: Config, sms: int) -> int:
    if not config.streams:
        return 1
    fill = config.blocks_per_sm * min(max(sms, 1), _MAX_SMS)
    deep = problem.total_cost(config) // (_MIN_SLABS_PER_PART * _DENSE_COST)
    return max(1, min(fill, deep))


def _weight_reads(problem: Problem, config: Config, parts: int) -> int:
    if problem.slabs_cost * 8 * problem.panel_rows <= _STAYS_IN_L2:
        return 1
    tiles = problem.token_tiles(config)
    if not config.streams:
        return _ceil_div(tiles, _TILES_PER_GROUP)
    return 1 if parts % problem.tiles(config) == 0 else tiles


def _predicted_cost(problem: Problem, config: Config, parts: int, sms: int) -> int:
    sms, height, slabs = max(sms, 1), config.panel_rows // 64, problem.slabs_cost
    turn = (max(config.tokens, _L2_TOKENS) + _TURN_TOKENS) * height
    reads = _weight_reads(problem, config, parts)
    busy = min(parts if config.streams else problem.tiles(config), sms)
    dram = slabs * reads * _DRAM_TOKENS * height // (_DENSE_COST * busy)
    if not config.streams:
        waves = _ceil_div(problem.tiles(config), sms)
        return max(waves * (slabs // (_DENSE_COST * problem.panels) + config.stages) * turn, dram)
    multiply = (_ceil_div(problem.total_cost(config), busy) // _DENSE_COST + config.stages) * turn
    shared = min(parts, _ceil_div(parts, problem.tiles(config)) + 1)
    sums = shared * config.tokens * config.panel_rows
    return max(multiply, dram) + (_ADD_UP + sums // _SUMS_PER_UNIT if parts > 1 else 0)


def choose_schedule(problem: Problem, sms: int, config: int | None = None) -> tuple[int, int]:
    """(configuration, parts); configuration -1 when none fits the panel's height."""
    best, best_cost = (-1, 1), 0
    for i, c in enumerate(CONFIGS):
        if c.gated or c.panel_rows != problem.panel_rows or (config is not None and config != i):
            continue
        most, tiles = _max_parts(problem, c, sms), problem.tiles(c)
        for parts in (1, most, min(most, sms), *(min(most, many * tiles) for many in (1, 2, 4))):
            cost = _predicted_cost(problem, c, parts, sms)
            if best[0] < 0 or cost < best_cost:
                best, best_cost = (i, parts), cost
    return best
