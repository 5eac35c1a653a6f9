"""`bench`: time a build against the dense model and a uniform 2:4 model."""

from pathlib import Path
from typing import Annotated

from masklearn.base.option import Option
from patch_compile.api.results import Result
from patch_compile.api.signature import Given, StrPath, takes
from patch_compile.options import Argument, BenchOptions


@takes(BenchOptions, extra="build")
def bench(
    given: Given,
    path: Annotated[StrPath, Argument("The folder of a build.", "OUT")],
    *,
    force: Annotated[bool, Option("Replace the times of an earlier run.")] = False,
) -> Result:  # fmt: skip
    """Compare OUT's speed with the dense and a uniform 2:4 model.

    Prompts and decode steps of the three models are timed in alternation. A GPU runs their engines, and its clocks are
    reported with the times. Without a GPU their ONNX files run in ONNX Runtime on the CPU; such times say nothing about a
    GPU. Times are in milliseconds. They are written to OUT/bench/bench.json and shown in OUT/report.html.

    Raises UsageError for an invalid setting, and PatchCompileError if the models cannot be run on this machine or do not
    fit into memory together.
    """
    from patch_compile.timing.request import BenchRequest
    from patch_compile.timing.run import bench as run

    settings = {name: value for name, value in given.items() if name not in ("path", "force")}
    return Result(run(Path(path), BenchRequest.parse(settings), force=force), Path(path))
