"""Builds with `--weights`: given masks whose weights are rounded, and types that are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from patch_compile.pipeline.learn import learn
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.open import open_source
from tests.builds import build
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
