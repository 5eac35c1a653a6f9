"""`compare`: compare builds of one model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from masklearn.base.option import Option
from patch_compile.api.results import Compared
from patch_compile.api.signature import StrPath, takes
from patch_compile.options import Argument


@takes()
def compare(
    paths: Annotated[Sequence[StrPath], Argument("The folders of the builds.", "OUT…")],
    out: Annotated[StrPath | None, Option(
        "File for the curve (FILE.svg), or folder for the curve and the table as JSON.", "FOLDER|FILE",
        unset="only print the table")] = None,
    *,
    against: Annotated[Literal["ratio", "bytes", "speed"], Option(
        "Quantity that quality is plotted over. Speed is measured if every OUT was timed on the same GPU, else predicted.")]
        = "ratio",
    force: Annotated[bool, Option("Replace files that exist.")] = False,
) -> Compared:  # fmt: skip
    """Compare quality, size and speed of builds of one model.

    Pareto points are the builds that no other build beats.

    Raises UsageError for an invalid setting, and PatchCompileError with the reason for builds that cannot be compared.
    """
    from patch_compile.comparison import Against
    from patch_compile.comparison import compare as run
    from patch_compile.errors import member

    drawn = None if out is None else Path(out)
    return Compared(
        run([Path(path) for path in paths], drawn, member(Against, against, "against"), force=force)
    )
