"""`build_plugin`: compile the TensorRT plugin that runs PatchLinear."""

from pathlib import Path
from typing import Annotated, Literal

from masklearn.base.option import Option
from patch_compile.api.results import Result
from patch_compile.api.signature import takes


@takes()
def build_plugin(
    backend: Annotated[Literal["tensorrt", "tensorrt-rtx"] | None, Option(
        "TensorRT to build the plugin for.", unset="the best that this machine has")] = None,
    *,
    force: Annotated[bool, Option("Build it even if the cache has it.")] = False,
) -> Result:  # fmt: skip
    """Build the TensorRT plugin that runs PatchLinear.

    A plugin in the cache is not built again. The tools that built the plugin are listed.

    Raises PatchCompileError with the name of a tool that is missing.
    """
    from patch_compile.pipeline.plugin import build_plugin as run

    report = run(backend, force=force)
    return Result(report, Path(report["path"]))
