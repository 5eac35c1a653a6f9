"""`patch-compile build`."""

from __future__ import annotations

from typing import Any

import click

import patch_compile.api.build as api
from patch_compile.artifacts.layout import RECIPE
from patch_compile.cli.command import AS_JSON, Option, command, print_result
from patch_compile.cli.options import OPTIONS
from patch_compile.errors import PatchCompileError

__all__ = ["build"]

_OWN = {
    "out": Option("Folder to write.", unset="./NAME-patch-RATIO", flags=("-o", "--out")),
    "backend": Option("TensorRT that builds the engine; onnx stops at the ONNX file.", unset="the one this machine has"),
    "target": Option(
        "GPUs to build for: cards or architectures, such as a6000 or sm86,sm89.", "GPU[,GPU…]", "local GPU, or sm86"
    ),
    "min_shapes": Option("Smallest input shapes: as for trtexec, or batch=1,sequence=1.", "SPEC"),
    "opt_shapes": Option("Input shapes to tune the engine for.", "SPEC"),
    "max_shapes": Option("Largest input shapes.", "SPEC"),
    "optimization_level": Option("Effort of the builder, 0 … 5.", unset="the backend's default"),
    "timing_cache": Option("File that keeps measured tactics for later builds (tensorrt).", "FILE"),
    "weight_streaming": Option("Let weights stay in host memory at run time."),
    "version_compatible": Option("Let later versions of the backend run the engine."),
    "hardware_compatible": Option("Let any GPU from Ampere on run the engine (tensorrt; for tensorrt-rtx name several "
                                  "in --target)."),
    "embed_plugin": Option("Put the plugin into the engine, to deploy one file; see --trust of run."),
    "prompt": Option("Prompt that the dense and the hybrid model each continue.", "TEXT"),
    "recipe": Option(f"Settings of an earlier build (OUT/{RECIPE}); options given here override them.", "FILE"),
    "force": Option("Replace OUT if it exists; refused if OUT holds files of yours. Stages whose result would be the "
                    "same are kept."),
}  # fmt: skip


@command(
    api.build,
    OPTIONS | _OWN,
    {"model": "MODEL_DIR|FILE.onnx"},
    summary="Learn masks, compile the model and build the engine.",
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
    print_result(built, as_json=as_json, parts=built.parts(every=verbose))
