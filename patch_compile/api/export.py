"""`export`: write the pruned model of a build in a form that other programs read."""

from pathlib import Path
from typing import Annotated, Literal

from masklearn.base.option import Option
from patch_compile.api.results import Result
from patch_compile.api.signature import StrPath, takes
from patch_compile.options import EDGELLM_PYTHON, Argument


@takes(extra="build")
def export(
    path: Annotated[StrPath, Argument("The folder of `build` or `learn`.", "OUT")],
    *,
    format: Annotated[Literal["compressed-tensors", "edgellm"], Option(
        "compressed-tensors for transformers, edgellm for the builder of TensorRT Edge-LLM.")] = "compressed-tensors",
    edgellm_python: Annotated[StrPath | None, EDGELLM_PYTHON] = None,
) -> Result:  # fmt: skip
    """Write the pruned model of OUT for other programs.

    OUT is the folder of `build` or `learn`. compressed-tensors packs int8 and int4 weights into OUT/compressed-tensors,
    which transformers reads. Pruned weights are zeros in it, because the format has no sparse form. Every weight is read
    back and compared with OUT/model.

    edgellm runs the exporter of TensorRT Edge-LLM on OUT/model, puts PatchLinear into its graph, and writes OUT/edgellm,
    from which Edge-LLM builds its engine. An earlier export is replaced.

    Raises UsageError for edgellm_python with another format. Raises PatchCompileError if OUT was changed or has no pruned
    checkpoint, for "compressed-tensors" if it has no quantised linears or a model that the format cannot hold, and for
    "edgellm" if the exporter is not installed or fails.
    """
    from patch_compile.errors import UsageError
    from patch_compile.pipeline.export import export_checkpoint, export_edgellm

    python = None if edgellm_python is None else Path(edgellm_python)
    if format == "edgellm":
        from patch_compile.pipeline.edgellm import find_exporter

        report = export_edgellm(Path(path), find_exporter(python, Path(path)))
        return Result(report, Path(report.path))
    if python is not None:
        raise UsageError(
            f"--edgellm-python does not go with --format {format}",
            "It names the environment of Edge-LLM's exporter.",
            "Give --format edgellm, or leave it out.",
        )
    report = export_checkpoint(Path(path), format)
    return Result(report, Path(report.path))
