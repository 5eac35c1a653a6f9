"""Tables of the linears of a model, by kind, and words about their types, GEMMs and places."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from statistics import fmean
from typing import Any, NamedTuple

from masklearn.masks.kinds.table import DENSE
from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import kind_of, short_kinds
from masklearn.masks.record import TileSummary
from masklearn.quant.table import weight_type
from patch_compile.artifacts.command_results import MaskedLinear
from patch_compile.artifacts.layout import PAGE
from patch_compile.artifacts.plan import LinearRow, LinearTimes, Skipped, Times, Totals
from patch_compile.artifacts.record import Shown, Unit
from patch_compile.report.number_format import shape_of, spelled
from patch_compile.report.prediction import lowering_words, node_words
from patch_compile.report.section import Column, Columns, Section, Table, columns_of, table_of

ONE_PASS = "one pass"  # the only phase of a workload without decode steps
_SIXTEEN = "16-bit"
_REASONS = 6  # reasons why nodes stay dense that a build prints
_SHADES = " ░▒▓█"  # none, and quarters: a map is readable without colour


class Linears(NamedTuple):
    """Linears that share a row of a table. shape: empty for linears of several shapes, which have no times in common."""

    name: str
    shape: str
    lowering: str
    linears: Sequence[Any]  # of LinearRow, or of MaskedLinear


NAME: Columns = {Column("linear", words=True): attrgetter("name")}
SHAPE: Columns = {"shape": attrgetter("shape")}
LOWERING: Columns = {Column("lowering", words=True): attrgetter("lowering")}
SIZES = columns_of(Totals, over=Unit.MEGABYTES, of=lambda row: Totals.of(row.linears))
_COUNT: Columns = {"count": lambda row: str(len(row.linears))}


def linears_table(linears: Sequence[LinearRow], phases: Collection[str] = ()) -> Table:
    """Returns a row for each kind of linear and lowering: `model.layers.7.mlp.up_proj` and its like are `up_proj`.

    phases: those with the means of the row's predicted times, for a plan without tiles.
    """
    tiles, times = (share_columns(linears), time_columns(phases)) if phases else (_RATIO, {})
    columns = {**NAME, **_COUNT, **SHAPE, **tiles, **LOWERING, **times, **SIZES}
    return table_of_linears(_by_kind(linears), columns)


def masks_table(linears: Sequence[MaskedLinear]) -> Table:
    return table_of_linears(_by_kind(linears), {**NAME, **_COUNT, **SHAPE, **_RATIO})


def table_of_linears(rows: Sequence[Linears], columns: Columns, caption: str = "") -> Table:
    """Returns a table whose last row counts all linears."""
    return table_of(
        rows, columns, caption, Linears("all", "", "", [one for row in rows for one in row.linears])
    )


def _by_kind(linears: Sequence[LinearRow] | Sequence[MaskedLinear]) -> list[Linears]:
    """Group linears by kind, shape, and lowering with the type of quantised weights. A kind is the shortest end of the name
    that distinguishes it."""
    short = short_kinds(dict.fromkeys(kind_of(row.name) for row in linears))
    kinds: dict[tuple[str, str, str], list[LinearRow | MaskedLinear]] = {}
    for row in linears:
        lowering = lowering_words(row) if isinstance(row, LinearRow) else ""
        kinds.setdefault((short[kind_of(row.name)], shape_of(row.shape), lowering), []).append(row)
    order = list(short.values())
    return sorted(
        (Linears(*kind, rows) for kind, rows in kinds.items()), key=lambda row: order.index(row.name)
    )


def _weights(row: Linears) -> int:
    return sum(math.prod(linear.shape) for linear in row.linears)


def _ratio(row: Linears) -> str:
    weights = _weights(row)
    return spelled(sum(linear.zeroed for linear in row.linears) / weights, Unit.RATIO) if weights else ""


def _pruned_tiles(row: Linears) -> str:
    return f"{sum(linear.tiles.sparse for linear in row.linears)}/{sum(linear.tiles.all for linear in row.linears)}"


_RATIO: Columns = {"ratio": _ratio, "pruned tiles": _pruned_tiles}


def share_columns(linears: Sequence[LinearRow]) -> Columns:
    return {"tiles": _shares} if has_other_kinds(linears) else {"p": _share}


def share_legend(linears: Sequence[LinearRow]) -> str:
    return "tiles: share of slabs by kind" if has_other_kinds(linears) else "p: share of weights in 2:4 tiles"


def _shares(row: Linears) -> str:
    counts: Counter[str] = Counter()
    for linear in row.linears:
        counts.update(linear.slabs.by_kind)
    return " ".join(
        f"{kind}\N{NO-BREAK SPACE}{n / counts.total():.2f}"
        for kind, n in counts.items()
        if n and kind != DENSE.name
    )


def _share(row: Linears) -> str:
    weights = _weights(row)
    return f"{2 * sum(linear.zeroed for linear in row.linears) / weights:.2f}" if weights else ""


def has_other_kinds(linears: Sequence[LinearRow]) -> bool:
    return any(row.slabs.others for row in linears)


def time_columns(phases: Collection[str]) -> Columns:
    """Returns the columns of predicted times, empty where none are known."""
    return {
        Column(field.title, f"{phase.title if len(phases) > 1 else ONE_PASS}, {phase.unit}"): partial(
            _time, phase.name, field
        )
        for phase in LinearTimes.shown_fields().values()
        if phase.name in phases
        for field in Times.shown_fields().values()
    }


def _time(phase: str, field: Shown, row: Linears) -> str:
    times = [getattr(linear.predicted, phase) for linear in row.linears if linear.predicted]
    if not row.shape or not times:
        return ""
    return spelled(fmean(getattr(each, field.name) for each in times), field.unit, bare=True)


def map_of_tiles(summary: TileSummary) -> Section:
    """Returns a map: per cent of pruned tiles, with kinds as rows and blocks as columns."""
    if not summary.blocks:
        return Section()
    headings: list[Column | str] = [
        Column("% of tiles pruned", words=True),
        "all",
        *(str(first) for first, _ in summary.blocks),
    ]
    rows = [
        [name, *map(_shaded, (row.share, *row.by_depth))]
        for name, row in (*((kind.kind, kind) for kind in summary.kinds), ("all", summary.all))
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
        yield f"left dense: {rest} more, for other reasons: {PAGE} names them all"


def fused_words(linears: Iterable[LinearRow]) -> str:
    nodes = dict.fromkeys(row.node for row in linears if row.node)
    counts = Counter(node_words(node, node.linears[0]) for node in nodes)
    return ", ".join(f"{words} ×{count}" for words, count in counts.items() if words) or "nothing"


def split_lines(linears: Iterable[LinearRow]) -> Iterator[str]:
    """Yield the number of GEMMs, and the share of 2:4 weights that stay 2:4 in them, if a split linear is pruned."""
    rows = [(row, row.split) for row in linears if row.split]
    zeroed = sum(row.zeroed for row, _ in rows)
    if not zeroed:
        return
    products = sum(split.products for _, split in rows)
    used = sum(split.sparse_weights for _, split in rows)
    share = used / (2 * zeroed)
    yield (
        f"split: {len(rows)} linears in {products} GEMMs; {share:.0%} of the weights in 2:4 "
        "tiles are in 2:4 GEMMs, the others in dense GEMMs"
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
    words = f"weights: {types_words(counts)}"
    if taken is None:
        return words
    return f"{words}; a packed weight takes {taken:.3f} bytes on average, a dense 16-bit weight 2"
