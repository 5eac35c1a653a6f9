"""`inspect`: what a file or folder is, what is in it, and whether it is whole."""

from pathlib import Path

from patch_compile.api.given import StrPath
from patch_compile.api.results import Inspected

__all__ = ["inspect"]


def inspect(path: StrPath) -> Inspected:
    """Say what a file or folder is, what is in it, and whether it is whole.

    path: an engine, an ONNX file, masks or other safetensors, the plugin, a model folder, or OUT. `faults` of the result
    names what is broken. Raises PatchCompileError where it is nothing of these, is missing, or can't be read.
    """
    from patch_compile.inspect import inspect_path

    return Inspected(inspect_path(Path(path)))
