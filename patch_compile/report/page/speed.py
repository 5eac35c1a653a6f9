"""Predicted and measured times of the whole model, with the limits that no plan can pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from patch_compile.report.page.sources import Row, Sources
from patch_compile.report.prediction import remarks

__all__ = ["speed"]

_SEEN = {
    "sm_mhz": ("SM clock ", "MHz"),
    "memory_mhz": ("memory ", "MHz"),
    "watts": ("", "W"),
    "celsius": ("", "°C"),
}
# Columns of the table of measured times that may be empty.
_COLUMNS = {"dense": "dense", "uniform": "uniform-2:4", "predicted": "predicted", "limit": "limit"}
_PHASES = {"prefill": "prefill", "decode": "decode, all steps", "end_to_end": "end to end"}


def speed(sources: Sources) -> dict[str, Any]:
    """Returns {predicted, how, remarks, bench}. predicted: rows; bench: None if nothing was timed."""
    plan, whole = sources.plan, sources.whole
    rows = whole.as_json() if whole else {}
    return {
        "predicted": [{"phase": _PHASES[phase], **rows[phase]} for phase in sources.phases if rows],
        "how": f"{plan.card}; {plan.workload}" if whole else "",
        "remarks": remarks(sources.linears, plan),
        "bench": _bench(sources.bench) if sources.bench else None,
    }


def _bench(bench: Row) -> dict[str, Any]:
    rows = list(bench["rows"])
    columns = {name: any(row.get(key) for row in rows) for name, key in _COLUMNS.items()}
    return {
        "what": f"{bench['what'].rstrip('.')}.",
        "device": bench["device"]["name"],
        "clocks": _clocks(bench.get("clocks") or {}),
        "rows": [
            {**row, "uniform": row.get("uniform-2:4"), "predicted": row.get("predicted")} for row in rows
        ],
        "has": columns,
        "notes": bench["notes"],
    }


def _clocks(clocks: Row) -> str:
    """Returns in words the range of the GPU's clocks, power and temperature, empty if they were not recorded."""
    return ", ".join(_spreads(clocks.get("during") or {}))


def _spreads(during: Row) -> Iterator[str]:
    for name, (before, after) in _SEEN.items():
        if spread := during.get(name):
            low, high = round(spread["min"]), round(spread["max"])
            yield f"{before}{low if low == high else f'{low} to {high}'} {after}"
