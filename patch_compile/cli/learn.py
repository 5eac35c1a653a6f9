"""`patch-compile learn`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.learn as api
from patch_compile.cli.command import AS_JSON, Option, command, print_result
from patch_compile.cli.options import OPTIONS

__all__ = ["learn"]

_OWN = {
    "out": Option("Folder to write: masks and the pruned model.", "OUT", flags=("-o", "--out")),
    "target": Option(
        "Leave linears whole that gain nothing by pruning on this GPU: a card or an architecture, such as a6000 or sm86. "
        "--speedup and --budget-ms are predicted for it, else for the GPU of this machine, or sm86 without one.",
        "GPU[,GPU…]",
        "prune everywhere",
    ),
    "baselines": Option(
        "Compare with simpler ways to prune: all, or a comma-separated list of dense, dense-rounded (nothing "
        "pruned: what --weights alone costs), uniform-2:4, uniform-8:16, uniform-12:16, ffn-only, magnitude-tiles, "
        "random-tiles, unstructured.",
        "NAMES",
    ),
}


@command(
    api.learn,
    OPTIONS | _OWN,
    {"model": "MODEL_DIR"},
    summary="Learn hybrid masks and weights, without compiling.",
)
@AS_JSON
def learn(as_json: bool, **given: Any) -> None:
    """Learn the hybrid masks of MODEL_DIR, and the weights that belong to them, without compiling.

    `build MODEL_DIR --mask OUT/masks.safetensors` compiles the result. Without --target all covered linears are pruned, also
    those that `build` then compiles dense. Training runs in several processes under
    `accelerate launch --no_python patch-compile learn …` or `torchrun --no-python patch-compile learn …`.
    """
    learned = api.learn(**given)
    if learned is not None:  # only the first of several processes has the result
        print_result(learned, as_json=as_json)
