"""`compare`: compare builds of one model."""

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
    """Compare quality, size and speed of builds of one model. Builds that no other build beats are Pareto points.

    paths: the OUT folder of each build. out: a picture to draw (.svg), or a folder for the picture and the table as
    JSON; None draws nothing. against: the quantity on the horizontal axis, against which quality is drawn; "speed" is
    measured if all builds were timed on one GPU, else predicted. force: replace existing pictures.

    Raises UsageError for an invalid setting, and PatchCompileError with the reason for builds that cannot be compared.
    """
    from patch_compile.comparison import Against
    from patch_compile.comparison import compare as run
    from patch_compile.errors import member

    drawn = None if out is None else Path(out)
    return Compared(
        run([Path(path) for path in paths], drawn, member(Against, against, "against"), force=force)
    )
