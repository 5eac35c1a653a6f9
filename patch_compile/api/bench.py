"""`bench`: time a build against the dense model and a uniform 2:4 one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

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
    force: bool = False,
) -> Benched:
    """Time prompts and decode steps of OUT's model, of the dense model and of a uniform 2:4 one, in turns.

    path: OUT. runner: its engine on the GPU, or its ONNX file in ONNX Runtime; None takes the engine where this machine
    can run it. batch_size, prompt_tokens, past_tokens: sizes that are timed, None for the runner's own. iterations, warm_up:
    runs of each model that count, and runs before them. against: what the hybrid model is timed against. calibrate: later
    plans for this GPU go by these times. keep: leave the other models in OUT/bench/models. force: replace earlier times.

    Times are milliseconds; they go to OUT/bench/bench.json and into OUT/report.html. Raises UsageError for a setting that
    is not valid and PatchCompileError for models that can't be run here or do not fit into memory together.
    """
    from patch_compile.bench.request import BenchRequest
    from patch_compile.bench.run import bench as run

    settings = {name: value for name, value in given.items() if name not in ("path", "force")}
    return Benched(run(Path(path), BenchRequest.parse(settings), force=force), Path(path))
