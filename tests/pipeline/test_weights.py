"""Builds with `--weights`: whole builds on ONNX Runtime, given masks whose weights are rounded, and refused types."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from patch_compile.inspection.onnx_graph import inspect_onnx
from patch_compile.pipeline.learn import learn
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.open import open_source
from tests.builds import build, check_out
from tests.refusals import refused


def integers(masks: Path, model: Path) -> dict[str, Any]:
    """Returns the integers of all quantised linears. They are found again in the weights that are stored."""
    found, pruned = MaskSet.load(masks), Checkpoint.open(model)
    return {name: grid.integers(pruned.read(f"{name}.weight")) for name, grid in found.grids.items()}


def test_given_masks_are_rounded_once(settings: dict[str, Any], tmp_path: Path) -> None:
    learned = tmp_path / "learned"
    learn(Recipe.parse(settings | {"method": "magnitude", "out": learned}))
    given = {k: v for k, v in settings.items() if k != "ratio"} | {"mask": learned / "masks.safetensors"}
    build(given | {"weights": "int8,down_proj=int4"})
    out = settings["out"]
    found = integers(out / "masks.safetensors", out / "model")
    masks = MaskSet.load(out / "masks.safetensors")
    assert {*found} == {*masks}
    assert {grid.type.name for grid in masks.grids.values()} == {"int8", "int4"}
    for name, mask in MaskSet.load(learned / "masks.safetensors").items():
        np.testing.assert_array_equal(mask.keep(), masks[name].keep())
        assert not found[name][~mask.keep()].any()
    # The rounded weights go with the masks from here on, and are not rounded again.
    rounded = given | {"mask": out / "masks.safetensors", "out": tmp_path / "again"}
    for weights in (None, "int8,down_proj=int4"):
        source = open_source(Recipe.parse(rounded | ({"weights": weights} if weights else {})))
        pruning = source.take_given(tmp_path / "scratch", Progress())
        assert pruning.masks.grids and not pruning.has_new_weights
    for weights in ("int4", "float16", "int8"):
        source = open_source(Recipe.parse(rounded | {"weights": weights}))
        with refused():
            source.take_given(tmp_path / "scratch", Progress())


@pytest.mark.parametrize("weights", ["bfloat16", "int8,o_proj=bfloat16", "fc1=int8"])
def test_unfit_types_are_refused_before_work(settings: dict[str, Any], weights: str) -> None:
    with refused():
        build(settings | {"weights": weights})
    assert not settings["out"].exists() and not settings["out"].with_name("out.partial").exists()


@pytest.mark.parametrize(
    ("weights", "types", "checkpoint", "kinds"),
    [
        ("int8", {"int8"}, torch.bfloat16, "2:4,8:16"),
        ("int4,v_proj=float16,down_proj=int8", {"int4", "int8", "float16"}, torch.float32, "2:4,8:16"),
        ("w8a8,v_proj=int8,o_proj=float16", {"w8a8", "int8", "float16"}, torch.bfloat16, "auto"),
    ],
)
def test_quantised_builds_compute_as_transformers(settings, make_model, weights, types, checkpoint, kinds):
    """The proof compares the graph in float16 with the values of the grids, which a checkpoint in bfloat16 holds less
    exactly. Inputs of w8a8 may become other integers by a rounding of 16 bits: the measured tolerance may count then."""
    model = make_model(hidden_size=128, intermediate_size=192, num_hidden_layers=2, dtype=checkpoint)
    report = build({**settings, "model": model, "weights": weights, "kinds": kinds})
    out, tolerance = settings["out"], report["agreement"]["tolerance"]
    check_out(out, report, "model/model.safetensors")
    rows = {row["name"]: row for row in json.loads((out / "plan.json").read_text())["linears"]}
    assert {row["weights"] for row in rows.values()} == types
    assert {row["lowering"] for row in rows.values() if row["weights"] != "float16"} == {"plugin"}
    inspection = inspect_onnx(out / "onnx/model.onnx")
    assert not inspection.faults and {row["weights"] for row in inspection.rows} == types
    assert report["agreement"]["error"] <= tolerance["share"]
    rounded = sorted(name for name, row in rows.items() if row["weights"] == "w8a8")
    if rounded:
        assert json.loads((out / "model/config.json").read_text())["rounded_inputs"]["targets"] == rounded
    else:
        assert tolerance["origin"] == "roundings"
