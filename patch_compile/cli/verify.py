"""`patch-compile verify`."""

from __future__ import annotations

from typing import Any

import click

import patch_compile.api.verify as api
from patch_compile.cli.command import AS_JSON, Option, command, print_result
from patch_compile.cli.options import OPTIONS
from patch_compile.errors import NOT_CHECKED, AccuracyError

__all__ = ["verify"]

_OWN = {
    "only": Option("Comma-separated list of questions to answer.", "QUESTIONS"),
    "eval_text": Option("Held-out text.", "TEXT", "as in the build", flags=("--eval",)),
    "eval_windows": Option("Number of windows of held-out text.", "N", "as in the build"),
    "eval_length": Option("Tokens in a window of held-out text.", "N", "as in the build"),
    "lengths": Option("Lengths in tokens of the prompts on which the hybrid ONNX and the checkpoint are compared.", "N,…"),
    "atol": Option("Absolute tolerance of a logit.", unset="what rounding explains"),
    "rtol": Option("Relative tolerance of a logit.", unset="0"),
    "check_error_stat": Option("Statistic of the error that must be within the tolerance."),
    "fail_on": Option("Exit with code 3 if a limit is exceeded: ppl:+5% (over dense), ppl:12.5, kl:0.1, top1:90%, "
                      "logits:0.5, output:1e-2.", "NAME:LIMIT"),
    "sensitivity": Option("Also measure the loss with each linear pruned alone and with each restored alone; takes "
                          "minutes."),
    "sensitivity_tokens": Option("Tokens on which the sensitivity is measured.", "N"),
    "baselines": Option("Also measure simpler ways to prune: all, or a comma-separated list of dense-rounded, uniform-2:4, "
                        "uniform-8:16, uniform-12:16, ffn-only, magnitude-tiles, random-tiles, unstructured. The user's "
                        "cache keeps the results.", "NAMES",
                        "those in the cache"),
    "tasks": Option("Tasks of lm-evaluation-harness on local data; builtin is a small set that comes with patch-compile.",
                    "NAMES"),
    "task_backend": Option("Run the tasks with transformers (hf) or ONNX Runtime."),
    "task_limit": Option("Number of items of each task.", "N", "all"),
    "task_folder": Option("Folder with your own task files.", "DIR"),
    "prompt": Option("Text that the dense and the hybrid model each continue; may be repeated.", "TEXT"),
    "new_tokens": Option("Tokens of each continuation.", "N"),
    "device": Option("Where the checkpoints are compared.", "DEVICE", "cuda if there is one"),
}  # fmt: skip


@command(
    api.verify, OPTIONS | _OWN, {"path": "OUT"}, summary="Check OUT, and measure where pruning lost quality."
)
@AS_JSON
def verify(as_json: bool, **given: Any) -> None:
    """Check that OUT is compiled and built right, and measure where pruning lost quality.

    Three questions are answered separately. Compiled: does the hybrid ONNX compute the same as the pruned checkpoint, up
    to rounding? Pruned: how far is the pruned checkpoint from the dense model? Built: does the engine compute the same as
    the ONNX file (needs a GPU)? Answers, inputs and outputs are written to OUT/verify, and shown in OUT/report.html.

    PASSED means that every question asked has an answer and no check failed. The exit code is 3 if a check fails, and 5
    (NOT CHECKED) if none fails but a question has no answer, such as that about an engine without a GPU to run it: leave
    such a question out with --only.
    """
    # Imported here, because it imports NumPy and pydantic, which `--help` need not wait for.
    from patch_compile.artifacts.verify import Outcome

    found = api.verify(**given)
    print_result(found, as_json=as_json)
    codes = {Outcome.FAILED: AccuracyError.exit_code, Outcome.NOT_CHECKED: NOT_CHECKED}
    if code := codes.get(found.report.outcome):
        raise click.exceptions.Exit(code)
