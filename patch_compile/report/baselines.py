"""Puts into words which baselines beat a result."""

from __future__ import annotations

from collections.abc import Iterator

from masklearn import Baseline, BaselineRow, BesideBaselines

__all__ = ["beaten_lines"]


def beaten_lines(found: BesideBaselines) -> Iterator[str]:
    """Yield a line for each baseline that beats the result."""
    for row in found.rows[1:]:
        if row.name in found.beaten_by:
            yield _beaten(found.result, row)


def _beaten(result: BaselineRow, row: BaselineRow) -> str:
    if row.name != Baseline.FFN_ONLY:
        known = result.bytes_per_weight is not None and row.bytes_per_weight is not None
        return f"{result.name} is worse than {row.name} " + (
            f"and takes as many bytes or more ({result.bytes_per_weight:.3f} a weight against {row.bytes_per_weight:.3f})"
            if known
            else "at no higher ratio"
        )
    return (
        f"{result.name} at ratio {result.ratio:.3f} is worse than FFN-only 2:4 at {row.ratio:.3f} (perplexity "
        f"{result.perplexity:.2f} against {row.perplexity:.2f}): prune the feed-forward part alone instead, or repair longer"
    )
