"""`doctor`: find out what this machine can do, and how to fix what it lacks."""

from patch_compile.api.results import Result
from patch_compile.api.signature import takes


@takes()
def doctor() -> Result:
    """Report what this machine can do and what it lacks.

    It says how to fix what is missing. Nothing is built or downloaded.
    """
    from patch_compile.inspection.doctor import examine

    return Result(examine())
