"""The plan, a row for each linear."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from masklearn.masks.maskset import MaskSet
from masklearn.masks.names import depth_of, kind_of, short_kinds
from patch_compile.report.page.sources import Row
from patch_compile.report.page.spelling import milliseconds
from patch_compile.report.prediction import reason_lines
from patch_compile.report.split import split_lines

__all__ = ["plan_table"]

_PHASES = {"prefill": "prefill", "decode": "decode step"}
_TIMES = ("dense", "hybrid", "2:4")


def plan_table(report: Row, masks: MaskSet, phases: Collection[str]) -> dict[str, Any]:
    """{rows, phases: of which times are known, sums, lines: reasons and splits by kind, skipped}.

    phases: of the workload. A cell of numbers is (value, text): sorted by the one, read as the other.
    """
    linears = sorted(report["linears"], key=lambda row: _depth(row["name"]))  # by name, 10 comes before 2
    short = short_kinds(dict.fromkeys(kind_of(row["name"]) for row in linears))
    timed = [phase for phase in _PHASES if phase in phases and any(row["predicted"] for row in linears)]
    rows = [_row(row, short[kind_of(row["name"])], timed) for row in linears]
    return {
        "rows": rows,
        "phases": [_PHASES[phase] for phase in timed],
        "reasons": any(row["reason"] for row in rows),
        "sums": {key: sum(row[key] for row in linears) / 1e6 for key in ("bytes_before", "bytes_after")},
        "share": 2 * masks.ratio,
        "lines": [*reason_lines(linears), *split_lines(linears)],
        "skipped": report["skipped"],
    }


def _depth(name: str) -> float:
    depth = depth_of(name)
    return math.inf if depth is None else depth


def _row(row: Row, kind: str, phases: Collection[str]) -> dict[str, Any]:
    weights, predicted = row["shape"][0] * row["shape"][1], row["predicted"]
    times = [predicted[phase][which] for phase in phases for which in _TIMES] if predicted else []
    return {
        "name": row["name"],
        "kind": kind,
        "depth": depth_of(row["name"]),
        "shape": row["shape"],
        "weights": weights,
        "share": 2 * row["zeroed"] / weights,
        "lowering": row["lowering"],
        "times": [(round(value, 2), milliseconds(value)) for value in times],
        "sizes": [(row[key], f"{row[key] / 1e6:.2f}") for key in ("bytes_before", "bytes_after")],
        "reason": row["reason"] or (f"with {row['epilogue']}" if row["epilogue"] else ""),
    }
