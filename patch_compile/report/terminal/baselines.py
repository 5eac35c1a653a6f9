"""Prints a result beside its baselines."""

from __future__ import annotations

from collections.abc import Iterator

from masklearn.quality.record import BesideBaselines
from patch_compile.report.baselines import beaten_lines
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.parts import Part

__all__ = ["baseline_parts"]


def baseline_parts(found: BesideBaselines) -> Iterator[Part]:
    """Yield the result, its baselines below, and those that beat it."""
    table = FoldingTable(padding=(0, 1))
    for header in ("model", "ratio", "perplexity", "seconds", ""):
        table.add_column(header, no_wrap=True, justify="right" if header not in ("model", "") else "left")
    for row in found.rows:
        about = "" if row.deployable else "a reference: no kernel runs it"
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        table.add_row(row.name, f"{row.ratio:.3f}", f"{row.perplexity:.2f}", seconds, about)
    yield table
    yield (
        f"perplexity on {found.windows} windows of {found.length} tokens, {found.dtype}; "
        "baselines have SparseGPT's weights, without repair"
    )
    yield from (f"note: {line}" for line in beaten_lines(found))
