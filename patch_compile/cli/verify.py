"""`patch-compile verify`."""

from __future__ import annotations

from typing import Any

import click

import patch_compile.api.verify as api
from patch_compile.cli.command import AS_JSON, command, print_result
from patch_compile.errors import NOT_CHECKED, AccuracyError

__all__ = ["verify"]


@command(
    api.verify,
    summary="Check OUT, and measure where pruning lost quality.",
    basic=("only", "eval_text", "baselines", "tasks", "prompt", "fail_on", "as_json"),
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
