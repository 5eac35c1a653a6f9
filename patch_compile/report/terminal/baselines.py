"""Prints a result beside its baselines."""

from __future__ import annotations

from collections.abc import Iterator

from masklearn import BesideBaselines
from patch_compile.report.baselines import beaten_lines
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.parts import Part
from patch_compile.report.weight_types import loss_lines

__all__ = ["baseline_parts"]


def baseline_parts(found: BesideBaselines) -> Iterator[Part]:
    """Yield the result, its baselines below, and those that beat it."""
    table = FoldingTable(padding=(0, 1))
    sizes = any(row.bytes_per_weight for row in found.rows)
    for header in ("model", "ratio", *(["bytes"] if sizes else []), "perplexity", "seconds", ""):
        table.add_column(header, no_wrap=True, justify="right" if header not in ("model", "") else "left")
    for row in found.rows:
        about = "" if row.deployable else "no kernel runs it"
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        taken = f"{row.bytes_per_weight:.3f}" if row.bytes_per_weight and row.deployable else ""
        size = [taken] if sizes else []
        table.add_row(row.name, f"{row.ratio:.3f}", *size, f"{row.perplexity:.2f}", seconds, about)
    yield table
    bytes_words = "; bytes: of a packed weight, on average" * sizes
    yield (
        f"perplexity on {found.windows} windows of {found.length} tokens, {found.dtype}; "
        f"baselines have SparseGPT's weights, without repair{bytes_words}"
    )
    yield from loss_lines(found)
    yield from (f"note: {line}" for line in beaten_lines(found))
