"""`plugins/kernels/config.h` and the sizes of `schedule.h` in Python, for the roofline.

The table of configurations and all constants are read from the headers. The formulas are the headers' too: plans need no C++
compiler, so Python can't ask the compiled schedule, and a test compares both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from math import gcd

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, KINDS
from masklearn.quant.table import FLOAT16, QUANTISED, WeightType
from patch_compile.packing.slab_kinds import ALWAYS, SLAB_K
from patch_compile.plugin.toolchain import plugin_sources

# Number of kinds in the masks of PATCH (arXiv 2509.23410): dense and 2:4, the first of the table.
PATCH_KINDS = len(ALWAYS)
_DENSE = ALWAYS.index(DENSE)
_SIZES = ("panel_rows", "tokens", "feature_warps", "token_warps", "stages", "blocks_per_sm")
_LINE = re.compile(
    r'\{"([\w-]+)", Kernel::k(\w+),\s*'
    + r",\s*".join([r"(\d+)"] * len(_SIZES))
    + r",\s*k(Patch|Kind|Byte)\w+(?:,\s*Weights::k(\w+))?\}"
)


@dataclass(frozen=True)
class Config:
    """A line of kConfigs, with the derived sizes that the roofline needs, in bytes."""

    name: str
    kernel: str  # the name in `Kernel` of config.h, without its k
    panel_rows: int
    tokens: int
    feature_warps: int
    token_warps: int
    stages: int
    blocks_per_sm: int
    kinds: int  # kinds of slabs that it multiplies, the first so many of the table
    weights: WeightType = FLOAT16  # that it multiplies; 16-bit ones stand for each other

    @property
    def streams(self) -> bool:
        return self.kernel == "Stream"

    @property
    def warps(self) -> int:
        return self.feature_warps * self.token_warps

    @property
    def slab_room(self) -> int:
        """Returns the bytes that a slot of the ring has for a slab: those of the largest one."""
        return max(map(self.slab_bytes, range(self.kinds)))

    def slab_bytes(self, kind: int) -> int:
        """Returns the bytes of a slab of a kind, with metadata or masks, and scales. kind: its place in `kinds_of`."""
        return slab_bytes(self.panel_rows, kind, self.weights)

    @property
    def x_bytes(self) -> int:
        """Returns the bytes of the part of X that is multiplied with a slab."""
        return self.tokens * SLAB_K * self.weights.input_bits // 8

    @property
    def sums(self) -> int:
        return self.tokens * self.panel_rows

    @property
    def output_bytes(self) -> int:
        """Returns the bytes of a tile of Y in shared memory, with the padding that avoids bank conflicts."""
        return self.tokens * (self.panel_rows + 8) * 2

    @property
    def shared_bytes(self) -> int:
        ring = self.stages * (self.slab_room + self.x_bytes)
        return ring if self.streams else max(ring, self.output_bytes)


@cache
def kinds_of(weights: WeightType) -> tuple[TileKind, ...]:
    """Returns the kinds of slabs that go with a weight type, in the order of their numbers in the kernels."""
    return tuple(kind for kind in KINDS if kind.goes_with(weights))


def _header(name: str) -> str:
    return (plugin_sources() / "kernels" / name).read_text()


def _read_configs() -> tuple[Config, ...]:
    return tuple(
        Config(
            name,
            kernel,
            **dict(zip(_SIZES, map(int, numbers), strict=True)),
            kinds=len(kinds_of(_type_of(weights))) if kinds != "Patch" else PATCH_KINDS,
            weights=_type_of(weights),
        )
        for name, kernel, *numbers, kinds, weights in _LINE.findall(_header("config.h"))
    )


def _type_of(name: str) -> WeightType:
    """Returns the weight type with this name in `Weights` of plugins/kernels/weights.h, without its k; empty for 16 bits."""
    return QUANTISED.get(name.lower(), FLOAT16)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def constant(header: str, name: str) -> int:
    (value,) = re.findall(rf"constexpr \w+ {name} = (\d+);", _header(header))
    return int(value)


CONFIGS = _read_configs()  # by number
TABLE_WORDS = constant("arguments.h", "kTableWords")
"""Words of a stream's table of parts and pointers."""
FIRST_THAT_WAITS = constant("early_launches.h", "kFirstThatWaits")
"""The oldest architecture with early launches."""
_TILE_COST, _UNIT_BYTES = (constant("work.h", name) for name in ("kTileCost", "kUnitBytes"))
_MAX_SMS, _MIN_SLABS_PER_PART, _MOST_PARTS, _MAX_TOKEN_TILES = (
    constant("schedule.h", name) for name in ("kMaxSms", "kMinSlabsPerPart", "kMostParts", "kMaxTokenTiles")
)
_TILES_PER_GROUP = constant("config.h", "kTilesPerGroup")


@cache
def slab_bytes(panel_rows: int, kind: int, weights: WeightType = FLOAT16) -> int:
    """Returns the bytes of a slab with its metadata, masks and scales. kind: its place in `kinds_of`."""
    return int(panel_rows * SLAB_K * kinds_of(weights)[kind].bytes_of(weights))


@cache
def slab_cost(kind: int, weights: WeightType = FLOAT16) -> int:
    """Returns the bytes of a slab per panel row, in units of 8 (plugins/kernels/work.h). kind: its place in `kinds_of`."""
    return ceil_div(slab_bytes(1, kind, weights), _UNIT_BYTES)


@dataclass(frozen=True)
class Problem:
    """`Problem` of plugins/kernels/schedule.h."""

    tokens: int
    out_features: int
    in_features: int
    panel_rows: int
    slabs: tuple[int, ...]  # numbers of them, in the order of `kinds_of`; further numbers are 0
    weights: WeightType = FLOAT16
    gated: bool = False  # if True, W has as many rows of a gate as of an up

    @property
    def panels(self) -> int:
        return ceil_div(self.out_features * (1 + self.gated), self.panel_rows)

    @cached_property
    def weight_bytes(self) -> int:
        """Returns the bytes of all slabs with their metadata and scales."""
        return sum(
            count * slab_bytes(self.panel_rows, kind, self.weights)
            for kind, count in enumerate(self.slabs)
            if count
        )

    @cached_property
    def slabs_cost(self) -> int:
        """Returns the cost of all slabs, in the units of plugins/kernels/work.h."""
        return sum(count * slab_cost(kind, self.weights) for kind, count in enumerate(self.slabs) if count)

    @property
    def kinds(self) -> int:
        """Returns the number of kinds that a configuration must multiply: dense and 2:4, or all that go with its weights."""
        all_kinds = self.weights.quantised or any(self.slabs[PATCH_KINDS:])
        return len(kinds_of(self.weights)) if all_kinds else PATCH_KINDS

    @property
    def x_bytes(self) -> int:
        """Returns the bytes of X as the kernels read it."""
        return self.weights.input_bits // 8 * self.tokens * self.in_features

    def pointers_fit(self, parts: int) -> bool:
        """`pointers_fit` of arguments.h: True if a table of so many parts has room for the index's pointers."""
        return 2 * (parts + 1) + self.kinds * (self.panels + 1) <= TABLE_WORDS

    def suits(self, config: Config) -> bool:
        """Returns True if a configuration is for weights that are packed like this one's."""
        return (
            config.panel_rows == self.panel_rows
            and config.kinds == self.kinds
            and config.weights.bits == self.weights.bits
            and config.weights.input_bits == self.weights.input_bits
        )

    def token_tiles(self, config: Config) -> int:
        return ceil_div(self.tokens, config.tokens)

    def tiles(self, config: Config) -> int:
        return self.panels * self.token_tiles(config)

    def total_cost(self, config: Config) -> int:
        """Returns the cost of all tiles, in the units of plugins/kernels/work.h."""
        return self.token_tiles(config) * (self.panels * _TILE_COST + self.slabs_cost)


def blocks_on(config: Config, sms: int) -> int:
    """`blocks_on` of schedule.h: blocks of a stream on each SM of a card, for which its table of parts has room."""
    return min(config.blocks_per_sm, _MOST_PARTS // min(max(sms, 1), _MAX_SMS))


def max_parts(problem: Problem, config: Config, sms: int) -> int:
    """`max_parts` of schedule.h."""
    if not config.streams:
        return 1
    fill = blocks_on(config, sms) * min(max(sms, 1), _MAX_SMS)
    deep = problem.total_cost(config) // (_MIN_SLABS_PER_PART * slab_cost(_DENSE, problem.weights))
    return max(1, min(fill, deep))


def pieces_of(parts: int, tiles: int) -> int:
    """`pieces_of` of schedule.h: pieces of tiles that several parts share, whose sums are added up.

    Parts begin at parts - 1 places, of which gcd - 1 lie between tiles; each of the others leaves one more piece.
    """
    cuts = parts - gcd(parts, tiles)
    return cuts + min(cuts, tiles)


def weight_reads(problem: Problem, config: Config, parts: int, kept: int) -> int:
    """`weight_reads` of schedule.h: times that W is read from DRAM. kept: bytes that L2 keeps."""
    token_tiles, tiles = problem.token_tiles(config), problem.tiles(config)
    if token_tiles == 1 or problem.weight_bytes <= kept:
        return 1
    if not config.streams:
        return ceil_div(token_tiles, _TILES_PER_GROUP)
    if token_tiles > _MAX_TOKEN_TILES:
        return 1 if parts % tiles == 0 else token_tiles
    starts = sorted(j * parts % tiles for j in range(token_tiles))
    return 1 + sum((b - a) * token_tiles * problem.weight_bytes > kept * tiles for a, b in pairwise(starts))


def x_bytes_read(problem: Problem, config: Config, sms: int, kept: int) -> int:
    """`x_bytes` of schedule.h: bytes of X that are read from DRAM."""
    moved = problem.x_bytes
    if config.streams:
        return moved + (problem.panels - 1) * max(0, moved - kept)
    token_tiles = problem.token_tiles(config)
    if moved <= kept * ceil_div(token_tiles, _TILES_PER_GROUP):
        return moved
    return moved * ceil_div(problem.panels, max(1, sms // min(token_tiles, _TILES_PER_GROUP)))
