"""`patch-compile verify`."""

from __future__ import annotations

from typing import Any

import click

import patch_compile.api.verify as api
from patch_compile.cli.command import AS_JSON, Option, command, print_result
from patch_compile.errors import AccuracyError

__all__ = ["verify"]

_OWN = {
    "only": Option("Questions to answer; commas between.", "QUESTIONS"),
    "eval_text": Option("Held-out text.", "TEXT", "as the build", flags=("--eval",)),
    "eval_windows": Option("Windows of it.", "N", "as the build"),
    "eval_length": Option("Tokens in a window.", "N", "as the build"),
    "lengths": Option("Tokens of the prompts that hybrid and checkpoint are compared on.", "N,…"),
    "atol": Option("Absolute tolerance of a logit.", unset="what rounding explains"),
    "rtol": Option("Relative tolerance of a logit.", unset="0"),
    "check_error_stat": Option("What is held to the tolerance."),
    "fail_on": Option("Exit with 3 beyond a limit: ppl:+5% (over dense), ppl:12.5, kl:0.1, top1:90%, logits:0.5, "
                      "output:1e-2.", "NAME:LIMIT"),
    "sensitivity": Option("Also the loss with each linear pruned alone, and restored alone: minutes."),
    "sensitivity_tokens": Option("Tokens that it is measured on.", "N"),
    "baselines": Option("Also prune in simpler ways: all, or some of uniform-2:4, ffn-only, magnitude-tiles, random-tiles, "
                        "unstructured; kept in the user's cache, and shown from there.", "NAMES", "those in the cache"),
    "tasks": Option("Tasks of lm-evaluation-harness on local data; builtin is a small set of ours.", "NAMES"),
    "task_backend": Option("What runs them: transformers or ONNX Runtime."),
    "task_limit": Option("Items of each task.", "N", "all"),
    "task_folder": Option("Folder with task files of your own.", "DIR"),
    "prompt": Option("Continue this with the dense and the hybrid model; may be repeated.", "TEXT"),
    "new_tokens": Option("Tokens of such a continuation.", "N"),
    "device": Option("Where the checkpoints are compared.", "DEVICE", "cuda if there is one"),
}  # fmt: skip


@command(api.verify, _OWN, {"path": "OUT"})
@AS_JSON
def verify(as_json: bool, **given: Any) -> None:
    """Check that OUT is compiled and built right, and measure where pruning lost quality.

    Three questions are answered separately. Compiled: does the hybrid ONNX compute the same as the pruned checkpoint, up
    to rounding? Pruned: how far is the pruned checkpoint from the dense model? Built: does the engine compute the same as
    the ONNX file (needs a GPU)? Answers, inputs and outputs are written to OUT/verify, and shown in OUT/report.html. The
    exit code is 3 if a check fails.
    """
    found = api.verify(**given)
    print_result(found, as_json=as_json)
    if not found.passed:
        raise click.exceptions.Exit(AccuracyError.exit_code)
