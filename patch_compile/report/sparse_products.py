"""Puts into words how split linears become products, and how TensorRT ran their 2:4 products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from patch_compile.artifacts.engine import EngineDetails
from patch_compile.artifacts.plan import LinearRow

__all__ = ["sparsity_words", "split_lines"]


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


def sparsity_words(engine: EngineDetails) -> str:
    """Returns one sentence, empty for an engine without 2:4 weights that TensorRT's own tactics could run."""
    parts, tactics = engine.sparse_parts, engine.sparse_tactics
    if tactics is None:
        return _no_tactics(parts) if parts else ""
    eligible, chosen = tactics.eligible, tactics.chosen
    if eligible is None or chosen is None:
        return f"TensorRT logged nothing about 2:4 tactics; whether the {parts} 2:4 products run 2:4 is not known"
    if eligible == 0:
        return f"TensorRT found no weight 2:4, so the {parts} 2:4 products of the graph run densely"
    if chosen == 0:
        return (
            f"TensorRT chose no 2:4 tactic for any of {eligible} eligible layers: it timed the dense ones as "
            "faster, so split brings no speed here; --lowering plugin is the other way"
        )
    return f"TensorRT chose 2:4 tactics for {chosen} of {eligible} eligible layers"


def _no_tactics(parts: int) -> str:
    return (
        f"TensorRT-RTX has no 2:4 tactics of its own: the {parts} 2:4 products of split linears run densely; only "
        "--lowering plugin is sparse there"
    )
