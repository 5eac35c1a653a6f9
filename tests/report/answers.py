"""Results of `learn`, with baselines."""

from typing import Any

import numpy as np

from masklearn import BaselineRow
from patch_compile.artifacts.command_results import LearnedAnswer, LearnedBaselines
from patch_compile.artifacts.manifest import EvalText
from tests.artifacts.examples import learned_answer

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def tile_maps(layers: int) -> dict[str, np.ndarray]:
    """Maps in which v is dense, down is 2:4 in the second half of the blocks, and one in four of other tiles is 2:4."""
    maps = {}
    for i in range(layers):
        for kind in KINDS:
            tiles = np.zeros((2, 2), bool)
            tiles[0, 0] = kind != "self_attn.v_proj"
            if kind == "mlp.down_proj":
                tiles[:] = i >= layers // 2
            maps[f"model.layers.{i}.{kind}"] = tiles
    return maps


def answer(layers: int = 126, **changed: Any) -> LearnedAnswer:
    return learned_answer(tile_maps(layers), **changed)


def beside_baselines(*beaten_by: str) -> LearnedBaselines:
    rows = [("oneshot", 0.35, 33.456, 480.2, True), ("uniform-2:4", 0.5, 80.1, 99.0, True),
            ("unstructured", 0.35, float("inf"), 120.0, False)]  # fmt: skip
    return LearnedBaselines(
        rows=tuple(
            BaselineRow(
                name=name,
                ratio=ratio,
                perplexity=value,
                seconds=seconds,
                deployable=deployable,
                bytes_per_weight=2 - 1.75 * ratio,
            )
            for name, ratio, value, seconds, deployable in rows
        ),
        beaten_by=beaten_by,
        windows=16,
        length=1024,
        dtype="float32",
        text=EvalText(name="eval.txt", path="/texts/eval.txt"),
    )
