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
    """Time OUT's engine, a dense and a uniform 2:4 engine in turns.

    Prompts and decode steps of the three engines are timed in alternation on the GPU, whose clocks are reported with the
    times. Times are in milliseconds. They are written to OUT/bench/bench.json and shown in OUT/report.html.

    Raises UsageError for an invalid setting, and PatchCompileError if the engines cannot be run on this machine or do not
    fit into memory together.
    """
    from patch_compile.timing.request import BenchRequest
    from patch_compile.timing.run import bench as run

    settings = {name: value for name, value in given.items() if name not in ("path", "force")}
    return Result(run(Path(path), BenchRequest.parse(settings), force=force), Path(path))
