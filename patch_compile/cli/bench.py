"""`patch-compile bench`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.bench as api
from patch_compile.cli.command import AS_JSON, Option, command, print_result
from patch_compile.cli.options import OPTIONS

__all__ = ["bench"]

_OWN = {
    "batch_size": Option("Sequences in a batch.", "N[,N…]", "engine: 1,4,8,16; onnx: 1,4"),
    "prompt_tokens": Option("Tokens in a prompt.", "N[,N…]", "engine: 128,1024; onnx: 128"),
    "past_tokens": Option("Tokens before a decode step.", "N[,N…]", "as --prompt-tokens"),
    "iterations": Option("Timed runs of each model.", "N", "engine: 100; onnx: 10"),
    "warm_up": Option("Untimed runs of each model before them.", "N", "engine: 10; onnx: 2"),
    "against": Option("Models to time beside the hybrid one: dense, uniform-2:4, both (comma-separated) or none.",
                      "NAMES"),
    "calibrate": Option("Base later plans for this GPU on these times (engine)."),
    "keep": Option("Keep the dense and the uniform 2:4 model in OUT/bench/models."),
    "force": Option("Replace the times of an earlier run."),
}  # fmt: skip


@command(
    api.bench,
    OPTIONS | _OWN,
    {"path": "OUT"},
    summary="Time OUT's model beside the dense and a uniform 2:4 one.",
)
@AS_JSON
def bench(as_json: bool, **given: Any) -> None:
    """Time prompts and decode steps of OUT's model, of the dense model and of a uniform 2:4 model, in alternation.

    A GPU runs their engines, and its clocks are reported with the times. Without a GPU their ONNX files run in ONNX
    Runtime on the CPU; such times say nothing about a GPU. Times are written to OUT/bench/bench.json and shown in
    OUT/report.html.
    """
    print_result(api.bench(**given), as_json=as_json)
