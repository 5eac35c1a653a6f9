"""Predicted and measured times of the whole model, with the limits that no plan can pass."""

from __future__ import annotations

from typing import Any

from patch_compile.artifacts.bench import BenchReport
from patch_compile.report.bench import bench_notes, clock_words, timed_words
from patch_compile.report.page.page_data import Sources
from patch_compile.report.prediction import WHOLE_PHASES, remarks

__all__ = ["speed"]

# Columns of the table of measured times that may be empty.
_COLUMNS = ("dense", "uniform", "predicted", "limit")


def speed(sources: Sources) -> dict[str, Any]:
    """Returns {predicted, how, remarks, bench}. predicted: rows; bench: None if nothing was timed."""
    plan, whole = sources.plan, sources.whole
    rows = whole.as_json() if whole else {}
    return {
        "predicted": [{"phase": WHOLE_PHASES[phase], **rows[phase]} for phase in sources.phases if rows],
        "how": f"{plan.card}; {plan.workload}" if whole else "",
        "remarks": remarks(sources.linears, plan),
        "bench": _bench(sources.bench) if sources.bench else None,
    }


def _bench(bench: BenchReport) -> dict[str, Any]:
    rows = bench.rows
    return {
        "what": f"{timed_words(bench).rstrip('.')}.",
        "device": bench.device.name,
        "clocks": ", ".join(clock_words(bench.clocks)).replace(" … ", " to "),
        "gpu": bench.runner.on_gpu,
        "rows": rows,
        "has": {name: any(getattr(row, name) for row in rows) for name in _COLUMNS},
        "notes": list(bench_notes(bench)),
    }
