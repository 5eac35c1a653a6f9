"""Learning with weight types that are chosen by what they lose and save."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.base.errors import MaskLearnError
from masklearn.baselines import compare_with_baselines
from masklearn.learning import learn
from masklearn.masks.maskset import MaskSet
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.quality.record import Baseline
from masklearn.quant.table import FLOAT16
from masklearn.recipe import LearnRecipe
from tests.conftest import ModelMaker

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}


def recipe(text_file: Path, **settings: Any) -> LearnRecipe:
    given = {"tile": (32, 64), "calib": str(text_file), "windows": 2, "length": 16, "repair": "none"}
    return LearnRecipe.parse(given | {"weights": "auto"} | settings)


def types_of(masks: MaskSet) -> dict[str, str]:
    return {name: str(masks.grids[name].type if name in masks.grids else FLOAT16) for name in masks}


def test_fewer_bytes_take_smaller_types(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    path = make_model(**SIZES)
    found = {}
    for asked in (1.9, 0.45):
        settings = {"bytes_per_weight": asked, "method": "sparsegpt", "kinds": "2:4,8:16"}
        learned = learn(path, recipe(text_file, **settings), tmp_path / f"{asked}")
        assert learned.masks.packed_bytes_per_weight <= asked
        types = types_of(learned.masks)
        at = "model.layers.0"  # what shares its inputs shares its type
        assert len({types[f"{at}.self_attn.{one}_proj"] for one in "qkv"}) == 1
        assert len({types[f"{at}.mlp.{one}_proj"] for one in ("gate", "up")}) == 1
        found[asked] = [*types.values()]
    assert {*found[1.9]} == {"float16", "int8"} and "int4" in found[0.45]


def test_repair_comes_between_the_choice_and_the_rounding(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    path, given = make_model(**SIZES), {"bytes_per_weight": 0.8, "weights": "int8,int4"}
    plain = learn(path, recipe(text_file, **given), tmp_path / "a")
    asked = recipe(text_file, **given, repair="distill", repair_steps=3)
    learned = learn(path, asked, tmp_path / "b")
    assert types_of(learned.masks) == types_of(plain.masks)
    assert {*types_of(learned.masks).values()} == {"int8", "int4"}
    record = learned.masks.record.repair
    assert record is not None and record.scale_steps
    write_pruned_checkpoint(learned.checkpoint, learned.masks, tmp_path / "model")  # checks the grids
    # Baselines have the types that were chosen.
    windows = np.arange(32).reshape(2, 16) % 40
    names = [Baseline.ROUNDED, Baseline.MAGNITUDE_TILES]
    beside = compare_with_baselines(
        path, asked, tmp_path / "model", learned.masks, 1.0, names, windows, tmp_path / "c"
    )
    result, rounded, magnitude = beside.rows
    assert result.bytes_per_weight <= rounded.bytes_per_weight < 1.0
    assert magnitude.bytes_per_weight == pytest.approx(result.bytes_per_weight, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"ratio": 0.3}, "`weights` auto leaves a choice of types, and nothing says how to make it"),
        ({"bytes_per_weight": 0.9, "method": "wanda"}, "`method` wanda can't choose among the types"),
        (
            {"bytes_per_weight": 0.9, "criterion": "random"},
            "`method` oneshot `criterion` random can't choose among the types",
        ),
        ({"bytes_per_weight": 0.3}, "0.3 bytes per weight cannot be reached with these types"),
    ],
)
def test_what_can_choose_no_types_is_refused_before_any_work(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(MaskLearnError, match=why):
        learn(make_model(**SIZES), recipe(text_file, **settings), tmp_path / "s")
    assert not (tmp_path / "s").exists()
