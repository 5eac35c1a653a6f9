"""Compares the result with the same model pruned in simpler ways."""

from __future__ import annotations

from typing import Any

from masklearn.quality.record import Baseline
from patch_compile.report.page.number_format import change
from patch_compile.report.page.page_data import Sources
from patch_compile.report.weight_types import loss_lines

__all__ = ["baseline_rows"]

_ABOUT: dict[str, str] = {
    Baseline.DENSE: "the model as it is",
    Baseline.ROUNDED: "nothing pruned: what rounding alone costs",
    Baseline.UNIFORM: "every tile 2:4, SparseGPT's weights",
    Baseline.UNIFORM_8_16: "every tile 8:16, SparseGPT's weights",
    Baseline.UNIFORM_12_16: "every tile 12:16, SparseGPT's weights",
    Baseline.FFN_ONLY: "2:4 in the feed-forward part alone",
    Baseline.MAGNITUDE_TILES: "tiles ranked by mean |w|",
    Baseline.RANDOM_TILES: "tiles drawn at random",
    Baseline.UNSTRUCTURED: "no structure: a reference that no kernel runs",
}


def baseline_rows(sources: Sources) -> dict[str, Any] | None:
    """Returns {rows, how, sizes, lines}, or None without `verify`. Rows have a name and the change against dense, the result
    first; sizes: True if bytes of packed weights are known; lines: what of the loss is rounding's."""
    found = sources.baselines
    if found is None:
        return None
    dense = next((row.perplexity for row in found.rows if row.name == Baseline.DENSE), None)
    rows = [
        {
            **row.model_dump(),
            "result": place == 0,
            "about": "this build" if place == 0 else _ABOUT.get(row.name, ""),
            "change": change(row.perplexity, dense) if dense else "–",
        }
        for place, row in enumerate(found.rows)
    ]
    return {
        "rows": rows,
        "how": f"{found.windows} windows of {found.length} tokens, {found.dtype}",
        "sizes": any(row.bytes_per_weight for row in found.rows),
        "lines": list(loss_lines(found)),
    }
