"""`compare`: set builds of one model side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from patch_compile.api.given import StrPath
from patch_compile.api.results import Compared

__all__ = ["compare"]


def compare(
    paths: Sequence[StrPath],
    out: StrPath | None = None,
    *,
    against: Literal["ratio", "bytes", "speed"] = "ratio",
    force: bool = False,
) -> Compared:
    """Set builds of one model side by side: quality, size, speed, and which of them no other beats (Pareto points).

    paths: an OUT for each build. out: a picture to draw (.png, .svg), or a folder for both and the table as JSON; None
    draws nothing. against: what quality is set against; speed is measured where every build was timed on one GPU, else
    predicted. force: replace pictures that are there.

    Raises UsageError for a setting that is not valid and PatchCompileError for builds that can't be compared, saying why.
    """
    from patch_compile.compare import Against
    from patch_compile.compare import compare as run
    from patch_compile.errors import member

    drawn = None if out is None else Path(out)
    return Compared(
        run([Path(path) for path in paths], drawn, member(Against, against, "against"), force=force)
    )
