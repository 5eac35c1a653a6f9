"""`verify`: check that a build is correct and measure what pruning cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from masklearn.base.extras import require_extra
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
    trust: bool = False,
) -> Verified:
    """Answer independent questions about a finished build and write the answers to OUT/verify.

    compiled: does the hybrid ONNX compute the same as the pruned checkpoint, up to rounding? pruned: how far is the
    pruned model from the dense model? built: does the engine compute the same as the ONNX file (needs a GPU)? where:
    which linears lost the quality?

    path: OUT. only: the questions to answer. lengths: tokens of the prompts on which hybrid model and checkpoint are
    compared. atol, rtol: tolerances of a logit; None takes the rounding tolerance for atol and 0 for rtol.
    check_error_stat: the statistic of the errors that must keep the tolerance. fail_on: limits such as "ppl:+5%" or
    "top1:90%". sensitivity: also measure the loss with each linear pruned alone. eval_text, eval_windows, eval_length:
    None takes the settings of the build. baselines: simpler ways to prune that are measured too, "all" or names such as
    "uniform-2:4". tasks: tasks of lm-evaluation-harness, of which `task_limit` items are run with `task_backend`;
    task_folder: a folder of your own tasks. prompt: texts that dense and hybrid model continue by `new_tokens`. device: the
    device that compares the checkpoints. trust: see `open_generator`.

    A failed check is no error: `passed` of the result is then False. It is also False if a question of `only` could not be
    answered; without `only`, all questions are asked that the build has an answer to. Raises UsageError for an invalid
    setting, and PatchCompileError if a file of OUT was changed, or the dense model is missing or does not fit into memory.
    """
    require_extra("build", "`patch-compile verify`")
    from patch_compile.verification.request import VerifyRequest
    from patch_compile.verification.verify import verify as run

    settings = {name: value for name, value in given.items() if name != "path"}
    return Verified(run(Path(path), VerifyRequest.parse(settings)), Path(path))
