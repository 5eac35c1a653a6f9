"""`inspect`: describe a file or folder and check it."""

from pathlib import Path
from typing import Annotated

from patch_compile.api.results import Inspected
from patch_compile.api.signature import StrPath, takes
from patch_compile.options import Argument


@takes()
def inspect(
    path: Annotated[StrPath, Argument(
        "An engine, an ONNX file, masks or other safetensors, the plugin, a model, or OUT.", "PATH")],
) -> Inspected:  # fmt: skip
    """Identify, describe and check a file or folder.

    If the content is damaged, `faults` of the result says how, and the command exits with 1.
    """
    from patch_compile.inspection import inspect_path

    return Inspected(inspect_path(Path(path)), Path(path))
