"""What a report says about linears that are split into ordinary products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["split_lines"]

Row = Mapping[str, Any]


def split_lines(linears: Iterable[Row]) -> Iterator[str]:
    """How many products, and how much of what is 2:4 they keep 2:4; nothing where no linear is split."""
    rows = [row for row in linears if row["split"]]
    if not rows:
        return
    groups, products, used = (
        sum(row["split"][key] for row in rows) for key in ("groups", "products", "sparse_weights")
    )
    share = used / (2 * sum(row["zeroed"] for row in rows))
    yield (
        f"split: {len(rows)} linears in {groups} groups and {products} products; {share:.0%} of the weights in 2:4 "
        "tiles are in 2:4 products, the others in dense ones"
    )
