"""`export`: write the pruned model of a build in a form that other programs read."""

from pathlib import Path
from typing import Annotated

from masklearn.base.option import Option
from patch_compile.api.results import Result
from patch_compile.api.signature import StrPath, takes
from patch_compile.options import EDGELLM, Argument, with_python

_COMPRESSED = "compressed-tensors"


@takes(extra="build")
def export(
    path: Annotated[StrPath, Argument("The folder of `build` or `learn`.", "OUT")],
    *,
    format: Annotated[str, Option(
        "compressed-tensors for transformers, edgellm for the builder of TensorRT Edge-LLM. PYTHON is the interpreter of "
        "the environment with its exporter, by default this interpreter.", "FORMAT[=PYTHON]")] = _COMPRESSED,
) -> Result:  # fmt: skip
    """Write the pruned model of OUT for other programs.

    OUT is the folder of `build` or `learn`. compressed-tensors packs int8 and int4 weights into OUT/compressed-tensors,
    which transformers reads. Pruned weights are zeros in it, because the format has no sparse form. Every weight is read
    back and compared with OUT/model.

    edgellm runs the exporter of TensorRT Edge-LLM on OUT/model, puts PatchLinear into its graph, and writes OUT/edgellm,
    from which Edge-LLM builds its engine. An earlier export is replaced.

    Raises UsageError for another format. Raises PatchCompileError if OUT was changed or has no pruned
    checkpoint, for "compressed-tensors" if it has no quantised linears or a model that the format cannot hold, and for
    "edgellm" if the exporter is not installed or fails.
    """
    from patch_compile.pipeline.export import export_checkpoint, export_edgellm

    name, python = with_python("format", format, (_COMPRESSED, EDGELLM))
    if name == EDGELLM:
        from patch_compile.pipeline.edgellm import find_exporter

        report = export_edgellm(Path(path), find_exporter(python, Path(path)))
        return Result(report, Path(report.path))
    report = export_checkpoint(Path(path), name)
    return Result(report, Path(report.path))
