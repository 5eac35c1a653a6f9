"""`patch-compile build`."""

from __future__ import annotations

from typing import Any

import click

import patch_compile.api.build as api
from patch_compile.cli.command import AS_JSON, command, print_result
from patch_compile.errors import PatchCompileError

__all__ = ["build"]


@command(
    api.build,
    summary="Learn masks, compile the model and build the engine.",
    basic=(
        "out",
        "ratio",
        "target",
        "calib",
        "eval_text",
        "weights",
        "kinds",
        "backend",
        "resume",
        "force",
        "recipe",
    ),
)
@click.option("--verbose", is_flag=True, help="Name every node that stays dense, also in an error. [counts]")
@AS_JSON
def build(verbose: bool, as_json: bool, **given: Any) -> None:
    """Learn masks, compile the model, build the engine and measure the loss of quality: MODEL_DIR → OUT.

    FILE.onnx is any ONNX model. Its linears are MatMul, Gemm and 1×1 Conv with constant weights. --calib is then an .npz
    with one array per graph input. An array with one axis more than the input holds one run per index of its first axis;
    otherwise its first axis counts samples. A scalar input takes one number for all runs. The methods
    oneshot, sparsegpt and wanda need such inputs; without them masks are learned by magnitude.
    """
    try:
        built = api.build(**given)
    except PatchCompileError as error:
        for line in error.details if verbose else ():
            error.add_note(line)
        raise
    print_result(built, as_json=as_json, every=verbose)
