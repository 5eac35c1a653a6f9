"""`compare`: compare builds of one model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from patch_compile.api.results import Compared
from patch_compile.api.signature import StrPath, takes
from patch_compile.options import Argument


@takes()
def compare(paths: Annotated[Sequence[StrPath], Argument("The folders of the builds.", "OUT…")]) -> Compared:
    """Compare quality, size and speed of builds of one model.

    Raises UsageError for an invalid setting, and PatchCompileError with the reason for builds that cannot be compared.
    """
    from patch_compile.comparison import compare as run

    return Compared(run([Path(path) for path in paths]))
