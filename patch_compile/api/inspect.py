"""`inspect`: describe a file or folder and check it."""

from pathlib import Path
from typing import Annotated

from masklearn.base.option import Option
from patch_compile.api.results import Inspected
from patch_compile.api.signature import StrPath, takes
from patch_compile.options import Argument


@takes()
def inspect(
    path: Annotated[StrPath, Argument(
        "An engine, an ONNX file, masks or other safetensors, the plugin, a model, or OUT.", "PATH")],
    *,
    target: Annotated[str | None, Option(
        "Card, such as a6000, for which to tell why a pruned model is not faster. PATH is its folder or ONNX file; all "
        "covered weights are read.", "GPU", unset="weights are not looked at")] = None,
) -> Inspected:  # fmt: skip
    """Identify, describe and check a file or folder.

    With `target` it tells which linears of a model folder or ONNX file are 2:4, what can use it, and what they would gain.
    If the content is damaged, `faults` of the result says how, and the command exits with 1.
    """
    from patch_compile.inspection import inspect_path

    return Inspected(inspect_path(Path(path), target), Path(path))
