"""`patch-compile learn`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.learn as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["learn"]


@command(
    api.learn,
    summary="Learn hybrid masks and weights, without compiling.",
    basic=(
        "out",
        "ratio",
        "target",
        "calib",
        "eval_text",
        "baselines",
        "weights",
        "kinds",
        "resume",
        "force",
    ),
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
