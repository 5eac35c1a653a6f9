"""The plan as a table, with a row for each linear."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from masklearn.masks.name_globs import depth_of, kind_of, short_kinds
from patch_compile.artifacts.plan import LinearRow
from patch_compile.report.page.number_format import milliseconds
from patch_compile.report.page.page_data import Sources
from patch_compile.report.prediction import lowering_words, node_words, reason_lines, reason_words
from patch_compile.report.sparse_products import split_lines

__all__ = ["plan_table"]

_PHASES = {"prefill": "prefill", "decode": "decode step"}


def plan_table(sources: Sources) -> dict[str, Any]:
    """Returns {rows, phases, sums, lines, skipped}.

    phases: the phases with known times; lines: reasons and splits by kind. A cell of numbers is (value, text): the
    table is sorted by the value and shows the text.
    """
    linears = sorted(sources.linears, key=lambda row: _depth(row.name))  # by name, 10 comes before 2
    short = short_kinds(dict.fromkeys(kind_of(row.name) for row in linears))
    known = any(row.predicted for row in linears)
    timed = [phase for phase in _PHASES if phase in sources.phases and known]
    rows = [_row(row, short[kind_of(row.name)], timed) for row in linears]
    totals = sources.plan.totals
    return {
        "rows": rows,
        "phases": [_PHASES[phase] for phase in timed],
        "reasons": any(row["reason"] for row in rows),
        "sums": {"bytes_before": totals.bytes_before / 1e6, "bytes_after": totals.bytes_after / 1e6},
        "share": 2 * sources.masks.ratio,
        "lines": [*reason_lines(linears), *split_lines(linears)],
        "skipped": sources.report.skipped,
    }


def _depth(name: str) -> float:
    depth = depth_of(name)
    return math.inf if depth is None else depth


def _row(row: LinearRow, kind: str, phases: Collection[str]) -> dict[str, Any]:
    weights, words = row.shape[0] * row.shape[1], node_words(row.node, row.name) if row.node else ""
    found = [getattr(row.predicted, phase) for phase in phases] if row.predicted else []
    times = [value for one in found for value in (one.dense, one.hybrid, one.sparse)]
    return {
        "name": row.name,
        "kind": kind,
        "depth": depth_of(row.name),
        "shape": row.shape,
        "weights": weights,
        "share": row.tiles.sparse / row.tiles.all if row.slabs.others else 2 * row.zeroed / weights,
        "lowering": lowering_words(row),
        "times": [(round(value, 2), milliseconds(value)) for value in times],
        "sizes": [(size, f"{size / 1e6:.2f}") for size in (row.bytes_before, row.bytes_after)],
        "reason": reason_words(row.reason) if row.reason else words and f"with {words}",
    }
