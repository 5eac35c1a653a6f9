"""Lists the linears with the largest share of the error."""

from __future__ import annotations

from typing import Any

from patch_compile.artifacts.verify_schema import ErrorAttribution
from patch_compile.report.verify import where_words

__all__ = ["lost_where"]

_LISTED = 12


def lost_where(where: ErrorAttribution | None) -> dict[str, Any] | None:
    """Returns {rows, of, listed, tried}, or None without `verify`.

    rows: linears with the largest shares; of: number of all linears; listed: the rows' share of the error; tried: True
    if any linear was pruned or restored alone.
    """
    if where is None or not where.linears:
        return None
    rows = sorted(where.linears, key=lambda row: row.share, reverse=True)[:_LISTED]
    return {
        "rows": rows,
        "of": len(where.linears),
        "listed": sum(row.share for row in rows),
        "tried": where.tokens is not None,
        "how": where_words(where),
    }
