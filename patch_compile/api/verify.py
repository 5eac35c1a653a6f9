"""`verify`: prove what a build is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from patch_compile.api.given import Given, StrPath, takes_given
from patch_compile.api.results import Verified

__all__ = ["verify"]


@takes_given
def verify(
    given: Given,
    path: StrPath,
    *,
    only: str | Sequence[str] = ("compiled", "pruned", "built", "where"),
    eval_text: str | None = None,
    eval_windows: int | None = None,
    eval_length: int | None = None,
    lengths: str | Sequence[int] = (1, 17, 96),
    atol: float | None = None,
    rtol: float | None = None,
    check_error_stat: Literal["elemwise", "max", "mean", "median", "quantile"] = "max",
    fail_on: Sequence[str] = (),
    sensitivity: bool = False,
    sensitivity_tokens: int = 512,
    baselines: str | Sequence[str] = (),
    tasks: str | Sequence[str] = (),
    task_backend: Literal["hf", "onnx"] = "hf",
    task_limit: int | None = None,
    task_folder: StrPath | None = None,
    prompt: Sequence[str] = (),
    new_tokens: int = 40,
    device: str | None = None,
) -> Verified:
    """Answer three questions about a finished build, each on its own, and write the answers to OUT/verify.

    compiled: the hybrid ONNX computes what the pruned checkpoint does, to rounding. pruned: how far that is from the dense
    model. built: the engine computes what the ONNX does (on a GPU). where: which linears lost the quality.

    path: OUT. only: the questions to answer. lengths: tokens of the prompts that hybrid and checkpoint are compared on.
    atol, rtol: tolerance of a logit, None for what rounding explains and 0; check_error_stat: what is held to it. fail_on:
    limits such as "ppl:+5%" or "top1:90%". sensitivity: also the loss with each linear pruned alone. eval settings that
    are None are those of the build.

    A check that fails is no error: `passed` of the result says so. Raises UsageError for a setting that is not valid and
    PatchCompileError when a file of OUT is not what was written, or the dense model is gone or does not fit into memory.
    """
    from patch_compile.verify.request import VerifyRequest
    from patch_compile.verify.verify import verify as run

    settings = {name: value for name, value in given.items() if name != "path"}
    return Verified(run(Path(path), VerifyRequest.parse(settings)), Path(path))
