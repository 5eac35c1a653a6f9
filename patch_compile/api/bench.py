"""`bench`: time a build against the dense model and a uniform 2:4 model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from masklearn.base.extras import require_extra
from patch_compile.api.given import Given, StrPath, takes_given
from patch_compile.api.results import Benched

__all__ = ["bench"]


@takes_given
def bench(
    given: Given,
    path: StrPath,
    *,
    runner: Literal["engine", "onnx"] | None = None,
    batch_size: str | Sequence[int] | None = None,
    prompt_tokens: str | Sequence[int] | None = None,
    past_tokens: str | Sequence[int] | None = None,
    iterations: int | None = None,
    warm_up: int | None = None,
    against: str | Sequence[str] = ("dense", "uniform-2:4"),
    calibrate: bool = False,
    keep: bool = False,
    trust: bool = False,
    force: bool = False,
) -> Benched:
    """Time prompts and decode steps of a build, of the dense model and of a uniform 2:4 model, in alternation.

    path: OUT, the folder of the build. runner: "engine" times TensorRT engines on the GPU, "onnx" times ONNX files in
    ONNX Runtime; None takes the engine if this machine can run it. batch_size, prompt_tokens, past_tokens: sizes to time,
    None for the runner's defaults; decode steps follow the prompts that are asked for. iterations, warm_up: timed runs of
    each model, and untimed runs before them. against: the models that the hybrid model is timed against. calibrate: use
    these times in later plans for this GPU. keep: keep the other models in OUT/bench/models. trust: see
    `open_generator`. force: replace earlier times.

    Times are in milliseconds. They are written to OUT/bench/bench.json and shown in OUT/report.html. Raises UsageError
    for an invalid setting, and PatchCompileError if the models cannot be run on this machine or do not fit into memory
    together.
    """
    require_extra("build", "`patch-compile bench`")
    from patch_compile.timing.request import BenchRequest
    from patch_compile.timing.run import bench as run

    settings = {name: value for name, value in given.items() if name not in ("path", "force")}
    return Benched(run(Path(path), BenchRequest.parse(settings), force=force), Path(path))
