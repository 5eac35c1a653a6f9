"""Compares the result with the same model pruned in simpler ways."""

from __future__ import annotations

from typing import Any

from patch_compile.report.page.sources import Sources
from patch_compile.report.page.spelling import change

__all__ = ["baseline_rows"]

_ABOUT = {
    "dense": "the model as it is",
    "uniform-2:4": "every tile 2:4, SparseGPT's weights",
    "ffn-only": "2:4 in the feed-forward part alone",
    "magnitude-tiles": "tiles ranked by mean |w|",
    "random-tiles": "tiles drawn at random",
    "unstructured": "no structure: a reference that no kernel runs",
}


def baseline_rows(sources: Sources) -> dict[str, Any] | None:
    """Returns {rows, how}, or None without `verify`. Rows have a name and the change against dense, the result first."""
    found = (sources.verify or {}).get("baselines")
    if not found or not found["rows"]:
        return None
    dense = next((row["perplexity"] for row in found["rows"] if row["name"] == "dense"), None)
    rows = [
        {
            **row,
            "result": place == 0,
            "about": "this build" if place == 0 else _ABOUT.get(row["name"], ""),
            "change": change(row["perplexity"], dense) if dense else "–",
        }
        for place, row in enumerate(found["rows"])
    ]
    how = f"{found['windows']} windows of {found['length']} tokens, {found['dtype']}"
    return {"rows": rows, "how": how}
