"""`inspect`: describe a file or folder and check it."""

from pathlib import Path
from typing import Annotated

from patch_compile.api.results import Inspected
from patch_compile.api.signature import StrPath, takes
from patch_compile.options import Argument

__all__ = ["inspect"]


@takes()
def inspect(
    path: Annotated[StrPath, Argument(
        "An engine, an ONNX file, masks or other safetensors, the plugin, a model, or OUT.", "PATH")],
) -> Inspected:  # fmt: skip
    """Identify a file or folder, describe its content and check that it is intact.

    `faults` of the result lists the damage. Raises PatchCompileError if the path is none of these, is missing, or cannot be
    read.
    """
    from patch_compile.inspection import inspect_path

    return Inspected(inspect_path(Path(path)), Path(path))
