"""Charts the growth of the error with depth.

The error is the relative error of each block's output, of the pruned model against the dense one.
"""

from __future__ import annotations

from typing import Any

from patch_compile.artifacts.verify_schema import ErrorAttribution
from patch_compile.report.page.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    percent_ticks,
    round_ticks,
)
from patch_compile.report.page.number_format import percent

__all__ = ["depth_chart"]

_LABELS = 12  # block numbers that fit below


def depth_chart(where: ErrorAttribution | None) -> dict[str, Any] | None:
    """Returns line, points and ticks in pixels for the template, or None without errors of at least two blocks."""
    blocks = where.blocks if where else ()
    if len(blocks) < 2:
        return None
    ticks = round_ticks(max(row.error for row in blocks))
    first, last = blocks[0].block, blocks[-1].block
    x = Scale(first, last, LEFT + 8, WIDTH - RIGHT - 8)
    y = Scale(0.0, ticks[-1], HEIGHT - BOTTOM, TOP)
    points = [
        {
            "x": x(row.block),
            "y": y(row.error),
            "words": f"block {row.block}: {percent(row.error, 1)}",
        }
        for row in blocks
    ]
    worst = max(blocks, key=lambda row: row.error)
    every = max(1, -(-len(blocks) // _LABELS))
    return {
        "size": (WIDTH, HEIGHT),
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "base": HEIGHT - BOTTOM,
        "top": TOP,
        "points": points,
        "line": "M" + "L".join(f"{point['x']} {point['y']}" for point in points),
        "x_ticks": [(x(row.block), row.block) for row in blocks[::every]],
        "y_ticks": percent_ticks(ticks, y),
        "summary": (
            f"The output of block {first} is off by {percent(blocks[0].error, 1)}, that of block {last} by "
            f"{percent(blocks[-1].error, 1)}; the largest is {percent(worst.error, 1)} at block {worst.block}."
        ),
    }
