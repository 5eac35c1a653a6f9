"""Tables of the linears of a model, by kind, and words about their types, products and places."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import TypeVar

from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import kind_of, short_kinds
from masklearn.masks.record import TileSummary
from masklearn.quant.table import weight_type
from patch_compile.artifacts.command_results import MaskedLinear
from patch_compile.artifacts.plan import LinearRow, Skipped
from patch_compile.report.number_format import shape_of
from patch_compile.report.prediction import lowering_words, node_words
from patch_compile.report.section import Column, Section, Table

_Linear = TypeVar("_Linear", LinearRow, MaskedLinear)
_SIXTEEN = "16-bit"
_REASONS = 6  # reasons why nodes stay dense that are shown without --verbose
_SHADES = " ░▒▓█"  # none, and quarters: a map is readable without colour
_TIMES = {"dense": "dense", "hybrid": "hybrid", "2:4": "sparse"}
_PHASES = ("prefill", "decode")


def linears_table(linears: Sequence[LinearRow], *, timed: bool = False) -> Table:
    """Returns a row for each kind of linear and lowering: `model.layers.7.mlp.up_proj` and its like are `up_proj`.

    timed: with the means of the row's predicted times, for a plan without tiles.
    """
    tiles = ["tiles" if has_other_kinds(linears) else "p"] if timed else ["ratio", "pruned tiles"]
    over = [Column(name, f"{phase}, µs") for phase in _PHASES for name in _TIMES] if timed else []
    sizes = [Column(name, "MB") for name in ("before", "after")]
    shares = (lambda rows: [_share(rows)]) if timed else _ratio_and_tiles
    rows = [
        [
            kind,
            str(len(alike)),
            shape,
            *shares(alike),
            lowering,
            *(_times(alike) if timed else ()),
            *_megabytes(alike),
        ]
        for (kind, shape, lowering), alike in _by_kind(linears).items()
    ]
    sums = ["all", str(len(linears)), "", *shares(linears), "", *[""] * len(over), *_megabytes(linears)]
    headings: list[Column | str] = [
        Column("linear", words=True),
        "count",
        "shape",
        *tiles,
        "lowering",
        *over,
        *sizes,
    ]
    return Table(headings, rows, sums=sums)


def masks_table(linears: Sequence[MaskedLinear]) -> Table:
    """Returns a row for each kind of linear, without the figures that only a build knows."""
    rows = [
        [kind, str(len(alike)), shape, *_ratio_and_tiles(alike)]
        for (kind, shape, _), alike in _by_kind(linears).items()
    ]
    headings: list[Column | str] = [Column("linear", words=True), "count", "shape", "ratio", "pruned tiles"]
    return Table(headings, rows, sums=["all", str(len(linears)), "", *_ratio_and_tiles(linears)])


def _by_kind(linears: Sequence[_Linear]) -> dict[tuple[str, str, str], list[_Linear]]:
    """Group linears by kind, shape, and lowering with the type of quantised weights. A kind is the shortest end of the name
    that distinguishes it."""
    short = short_kinds(dict.fromkeys(kind_of(row.name) for row in linears))
    kinds: dict[tuple[str, str, str], list[_Linear]] = {}
    for row in linears:
        lowering = lowering_words(row) if isinstance(row, LinearRow) else ""
        kinds.setdefault((short[kind_of(row.name)], shape_of(row.shape), lowering), []).append(row)
    order = list(short.values())
    return dict(sorted(kinds.items(), key=lambda kind: order.index(kind[0][0])))


def _weights(rows: Sequence[LinearRow | MaskedLinear]) -> int:
    return sum(row.shape[0] * row.shape[1] for row in rows)


def _ratio_and_tiles(rows: Sequence[LinearRow | MaskedLinear]) -> list[str]:
    weights, zeroed = _weights(rows), sum(row.zeroed for row in rows)
    sparse, tiles = sum(row.tiles.sparse for row in rows), sum(row.tiles.all for row in rows)
    return [f"{zeroed / weights:.3f}" if weights else "", f"{sparse}/{tiles}"]


def _share(rows: Sequence[LinearRow]) -> str:
    """Returns the share of weights in pruned tiles, by kind if some are not 2:4."""
    if has_other_kinds(rows):
        counts: Counter[str] = Counter()
        for row in rows:
            counts.update({TWO_FOUR.name: row.slabs.sparse, **row.slabs.others})
        total = sum(row.slabs.dense for row in rows) + counts.total()
        return " ".join(f"{kind} {count / total:.2f}" for kind, count in counts.items() if count)
    return f"{2 * sum(row.zeroed for row in rows) / _weights(rows):.2f}"


def has_other_kinds(linears: Sequence[LinearRow]) -> bool:
    return any(row.slabs.others for row in linears)


def _times(rows: Sequence[LinearRow]) -> Iterator[str]:
    predicted = [row.predicted for row in rows if row.predicted]
    for phase in _PHASES:
        for name in _TIMES.values():
            mean = fmean(getattr(getattr(one, phase), name) for one in predicted)
            yield f"{mean:.0f}" if mean >= 1000 else f"{mean:.1f}"


def _megabytes(rows: Sequence[LinearRow]) -> list[str]:
    sizes = sum(row.bytes_before for row in rows), sum(row.bytes_after for row in rows)
    return [f"{size / 1e6:.1f}" for size in sizes]


def map_of_tiles(found: TileSummary) -> Section:
    """Returns a map: per cent of pruned tiles, with kinds as rows and blocks as columns."""
    if not found.blocks:
        return Section()
    headings: list[Column | str] = [
        Column("% of tiles pruned", words=True),
        "all",
        *(str(first) for first, _ in found.blocks),
    ]
    rows = [
        [name, *map(_shaded, (row.share, *row.by_depth))]
        for name, row in (*((kind.kind, kind) for kind in found.kinds), ("all", found.all))
    ]
    legend = "columns: all blocks, then groups of neighbouring blocks by the first of them"
    return Section(tables=[Table(headings, rows)], lines=[legend])


def _shaded(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}{_SHADES[math.ceil(4 * share)]}"


def skipped_lines(skipped: Iterable[Skipped]) -> Iterator[str]:
    yield from (f"left dense: {row.name}: {row.reason}" for row in skipped)


def skipped_counts(skipped: Iterable[Skipped]) -> Iterator[str]:
    """Yield a line for each of the most frequent reasons, and a line for the rest."""
    reasons: dict[str, list[str]] = {}
    for row in skipped:
        reasons.setdefault(row.reason, []).append(row.name)
    order = sorted(reasons.items(), key=lambda reason: -len(reason[1]))
    for reason, names in order[:_REASONS]:
        yield f"left dense: {names[0] if len(names) == 1 else f'{len(names)} like {names[0]}'}: {reason}"
    if rest := sum(len(names) for _, names in order[_REASONS:]):
        yield f"left dense: {rest} more, for other reasons: --verbose names them all"


def fused_words(linears: Iterable[LinearRow]) -> str:
    nodes = dict.fromkeys(row.node for row in linears if row.node)
    counts = Counter(node_words(node, node.linears[0]) for node in nodes)
    return ", ".join(f"{words} ×{count}" for words, count in counts.items() if words) or "nothing"


def split_lines(linears: Iterable[LinearRow]) -> Iterator[str]:
    """Yield the number of products, and the share of 2:4 weights that stay 2:4 in them; nothing without a split linear."""
    rows = [(row, row.split) for row in linears if row.split]
    if not rows:
        return
    groups, products = sum(split.groups for _, split in rows), sum(split.products for _, split in rows)
    used = sum(split.sparse_weights for _, split in rows)
    share = used / (2 * sum(row.zeroed for row, _ in rows))
    yield (
        f"split: {len(rows)} linears in {groups} groups and {products} products; {share:.0%} of the weights in 2:4 "
        "tiles are in 2:4 products, the others in dense products"
    )


def learned_types(masks: MaskSet) -> Counter[str]:
    """Returns the numbers of linears with each type of weights; empty if none is quantised."""
    if not masks.grids:
        return Counter()
    return Counter(str(masks.grids[name].type) if name in masks.grids else _SIXTEEN for name in masks)


def compiled_types(linears: Iterable[LinearRow]) -> Counter[str]:
    """Returns the numbers of linears with each type of weights, as compiled; empty if none is quantised."""
    counts = Counter(row.weights if weight_type(row.weights).quantised else _SIXTEEN for row in linears)
    return counts if set(counts) - {_SIXTEEN} else Counter()


def types_words(counts: Counter[str]) -> str:
    """Returns the types with the numbers of their linears, such as `168 int8, 42 int4`; a single type without a number."""
    if len(counts) == 1:
        return next(iter(counts))  # all of them
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def types_line(counts: Counter[str], taken: float | None = None) -> str:
    """Returns the types of the linears' weights in words, empty if none is quantised. taken: bytes of a packed weight."""
    if not counts:
        return ""
    size = (
        ""
        if taken is None
        else f"; a packed weight takes {taken:.3f} bytes on average, a dense 16-bit weight 2"
    )
    return f"weights: {types_words(counts)}{size}"
