"""`inspect`: describe a file or folder and check it."""

from pathlib import Path

from patch_compile.api.given import StrPath
from patch_compile.api.results import Inspected

__all__ = ["inspect"]


def inspect(path: StrPath) -> Inspected:
    """Identify a file or folder, describe its content and check that it is intact.

    path: an engine, an ONNX file, masks or other safetensors, the plugin, a model folder, or OUT. `faults` of the result
    lists the damage. Raises PatchCompileError if the path is none of these, is missing, or cannot be read.
    """
    from patch_compile.inspection import inspect_path

    return Inspected(inspect_path(Path(path)))
