"""Puts into words how linears are split into ordinary products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from patch_compile.out.plan import LinearRow

__all__ = ["split_lines"]


def split_lines(linears: Iterable[LinearRow]) -> Iterator[str]:
    """Yield the number of products, and the share of 2:4 weights that stay 2:4 in them; nothing without a split linear."""
    rows = [(row, row.split) for row in linears if row.split]
    if not rows:
        return
    groups, products = sum(split.groups for _, split in rows), sum(split.products for _, split in rows)
    used = sum(split.sparse_weights for _, split in rows)
    share = used / (2 * sum(row.zeroed for row, _ in rows))
    yield (
        f"split: {len(rows)} linears in {groups} groups and {products} products; {share:.0%} of the weights in 2:4 "
        "tiles are in 2:4 products, the others in dense ones"
    )
