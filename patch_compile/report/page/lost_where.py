"""Lists the linears with the largest share of the error."""

from __future__ import annotations

from typing import Any

from patch_compile.report.page.sources import Row

__all__ = ["lost_where"]

_LISTED = 12


def lost_where(where: Row) -> dict[str, Any] | None:
    """Returns {rows, of, listed, tried}, or None without `verify`.

    rows: linears with the largest shares; of: number of all linears; listed: the rows' share of the error; tried: True
    if any linear was pruned or restored alone.
    """
    linears = where.get("linears") or []
    if not linears:
        return None
    rows = sorted(linears, key=lambda row: row["share"], reverse=True)[:_LISTED]
    tried = any(row[key] is not None for row in rows for key in ("alone", "restored"))
    return {
        "rows": rows,
        "of": len(linears),
        "listed": sum(row["share"] for row in rows),
        "tried": tried,
        "how": where["how"],
    }
