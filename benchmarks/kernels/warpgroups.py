"""Predicts the kernel for Hopper, which no GPU has run and which is off by default, for predicted_seconds.py.

A slab takes as long as the slowest of its products at the rate of wgmma, its bytes through shared memory, and the bytes
of its slot from L2; waits for barriers and the latency of products count as nothing. The dense product and the rates of the
card come from the roofline.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from patch_compile.hardware.cards import RatedCard
from patch_compile.packing.slab_kinds import SLAB_K
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.launch_work import rates_of, weight_bytes
from patch_compile.planning.roofline.library_product import first_bytes, l2_trip
from patch_compile.planning.roofline.linear_roofline import Linear
from patch_compile.plugin.toolchain import plugin_sources

_WARPGROUP_ROWS = 64
_LINE = re.compile(
    r'\{"([\w-]+)", Kernel::kWarpgroup(s|Pairs),\s*' + r",\s*".join([r"(\d+)"] * 6) + r",\s*(true|false),"
)


class Config(NamedTuple):
    """A line of kWarpgroupConfigs in plugins/kernels/warpgroup.h."""

    name: str
    panel_rows: int
    tokens: int
    feature_warps: int
    token_warps: int
    stages: int
    blocks_per_sm: int
    gated: bool
    cluster: int

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block, as in shared_bytes of config.h."""
        return 1024 + self.stages * ((self.panel_rows + self.tokens) * 128 + 16)


CONFIGS = tuple(
    Config(name, *map(int, numbers), gated == "true", 1 + (kind == "Pairs"))
    for name, kind, *numbers, gated in _LINE.findall(
        (plugin_sources() / "kernels" / "warpgroup.h").read_text()
    )
)


def slab_clocks(
    card: RatedCard, config: Config, sparse: bool, assume: Assumptions = ASSUMED
) -> dict[str, float]:
    """Clocks of an SM for one slab, by the resource that could limit them.

    Every warpgroup reads the X of its tokens once for its 64 rows, and every warpgroup along the tokens reads W. The
    blocks of a cluster read a slab from L2 once.
    """
    rates = rates_of(card, assume)
    weights = config.panel_rows * (72 if sparse else 2 * SLAB_K)
    x = config.tokens * 2 * SLAB_K
    fma = card.fma * card.tensor.value * assume.tensor * (2 if sparse else 1)
    read = weights * config.token_warps + x * config.panel_rows // _WARPGROUP_ROWS
    return {
        "tensor": config.panel_rows * config.tokens * SLAB_K / fma,
        "shared": (read + weights + x) / rates.shared,
        "l2": (weights / config.cluster + x) / rates.l2,
    }


def warpgroup_time(
    card: RatedCard, config: Config, shape: Linear, tokens: int, assume: Assumptions = ASSUMED
) -> float:
    """Predicted microseconds of a hybrid linear without a gate, whose panels have the configuration's rows."""
    problem, rates = shape.problem(tokens), rates_of(card, assume)
    slabs = [(problem.slabs[kind], sparse) for kind, sparse in ((DENSE.code, False), (TWO_FOUR.code, True))]
    panel = (
        sum(n * max(slab_clocks(card, config, kind, assume).values()) for n, kind in slabs) / problem.panels
    )
    token_tiles = -(-tokens // (config.tokens * config.cluster)) * config.cluster
    rounds = -(-problem.panels * token_tiles // card.sms)
    moved = weight_bytes(problem) + 2 * tokens * (shape.in_features + shape.out_features)
    # Each block reads pointers, then its first slab, and ends by storing a tile; nothing overlaps them with another block's.
    out = 2 * config.tokens * (config.panel_rows + 8) * 2 / rates.shared / rates.clocks
    each = (2 * assume.l2_latency + assume.dram_latency) / rates.clocks + out + l2_trip(card, assume)
    return first_bytes(card, assume) + max(moved / rates.bytes, rounds * (panel / rates.clocks + each))
