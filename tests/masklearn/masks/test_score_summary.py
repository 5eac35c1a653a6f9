from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklearn.learn import learn
from masklearn.masks.budget import Budget
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import ZeroScores
from masklearn.masks.score_summary import summarise_scores
from masklearn.masks.select import select
from masklearn.masks.tiles import tile_weights
from masklearn.methods import method_of
from masklearn.recipe import LearnRecipe
from masklearn.traits import Need
from tests.conftest import ModelMaker

TILE = (32, 32)


def scored(seed: int, spread: float = 2.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of linears with ragged tiles, across some orders of magnitude."""
    rng = np.random.default_rng(seed)
    shapes = {"layers.0.up": (200, 96), "layers.0.down": (96, 200), "layers.1.up": (200, 96)}
    areas = {name: tile_weights(shape, TILE) for name, shape in shapes.items()}
    scores = {name: (grid * rng.lognormal(sigma=spread, size=grid.shape)) for name, grid in areas.items()}
    return scores, areas


@given(st.integers(0, 10_000), st.floats(0.05, 0.45), st.floats(0.0, 4.0))
def test_every_tile_is_in_one_bin_and_the_cut_parts_them(seed: int, ratio: float, spread: float) -> None:
    scores, areas = scored(seed, spread)
    budget = Budget.of(ratio)
    tiles = select(scores, areas, budget)
    summary = summarise_scores(scores, areas, tiles, budget, "loss")
    assert summary is not None
    for kind, chosen in (("sparse", True), ("dense", False)):
        which = [grid == chosen for grid in tiles.values()]
        assert sum(getattr(summary, kind).tiles) == sum(int(one.sum()) for one in which)
        assert sum(getattr(summary, kind).weights) == sum(
            int(area[one].sum()) for area, one in zip(areas.values(), which, strict=True)
        )
    per_weight = np.concatenate([(scores[n] / (areas[n] / 2)).ravel() for n in scores])
    chosen = np.concatenate([tiles[n].ravel() for n in scores])
    assert per_weight[chosen].max() == summary.cut <= per_weight[~chosen].min()
    assert len(summary.model_dump_json()) < 4096


def test_a_bin_counts_what_lies_between_its_edges() -> None:
    scores, areas = scored(3)
    budget = Budget.of(0.3)
    tiles = select(scores, areas, budget)
    summary = summarise_scores(scores, areas, tiles, budget, "loss")
    assert summary is not None and len(summary.edges) == 41
    values = {n: scores[n] / (areas[n] / 2) for n in scores}
    for place in (0, 7, 20, 39):
        low, high = summary.edges[place : place + 2]
        for kind, chosen in (("sparse", True), ("dense", False)):
            held = [
                (v >= low) & ((v < high) | ((place == 39) & (v == high))) & (tiles[n] == chosen)
                for n, v in values.items()
            ]
            assert getattr(summary, kind).tiles[place] == sum(int(one.sum()) for one in held)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_no_choice_no_summary(ratio: float) -> None:
    scores, areas = scored(1)
    budget = Budget.of(ratio)
    assert summarise_scores(scores, areas, select(scores, areas, budget), budget, "loss") is None


def test_free_tiles_lie_in_no_bin() -> None:
    scores, areas = scored(1)
    scores["layers.0.up"][:2] = 0.0
    budget = Budget.of(0.3)
    tiles = select(scores, areas, budget)
    summary = summarise_scores(scores, areas, tiles, budget, "loss")
    assert summary is not None
    assert summary.zero == ZeroScores(dense=0, sparse=scores["layers.0.up"][:2].size)
    every = sum(sum(getattr(summary, kind).tiles) for kind in ("dense", "sparse"))
    assert every + summary.zero.sparse == sum(grid.size for grid in areas.values())


def test_several_budgets_have_no_common_cut() -> None:
    scores, areas = scored(1)
    by_pattern = Budget.of("up=0.4,down=0.1")
    summary = summarise_scores(scores, areas, select(scores, areas, by_pattern), by_pattern, "loss")
    assert summary is not None and summary.cut is None and "in 2 groups" in summary.ranked
    saving = Budget.saving(900.0, "µs")
    saves = {name: area / 10 for name, area in areas.items()}
    summary = summarise_scores(scores, areas, select(scores, areas, saving, saves), saving, "loss")
    assert summary is not None and summary.cut is None and "µs" in summary.ranked


@pytest.mark.parametrize(
    ("settings", "encoder", "words"),
    [
        ({}, False, "nats per token"),
        ({}, True, "output energy"),
        ({"method": "sparsegpt"}, False, "output energy"),
        ({"criterion": "raw"}, False, "squared output error per token"),
        ({"method": "wanda"}, False, "linear's mean per weight"),
        ({"method": "patch-joint"}, False, "exp(tile logit)"),
        ({"method": "maskllm", "prior": "magnitude"}, False, "linear's mean per weight"),
        ({"method": "maskllm", "prior": "some/masks.safetensors"}, False, "the prior leaves dense"),
    ],
)
def test_the_unit_is_that_of_the_method(settings: dict[str, Any], encoder: bool, words: str) -> None:
    recipe, lacks = LearnRecipe(**settings), [Need.LOSS] if encoder else []
    assert words in method_of(recipe.method).score_unit(recipe, lacks)


@pytest.mark.parametrize("method", ["oneshot", "wanda", "patch-tile"])
def test_learned_masks_hold_it(make_model: ModelMaker, text_file: Path, tmp_path: Path, method: str) -> None:
    """There is no summary when a contest kept the prior's tiles, which the scores did not choose."""
    recipe = LearnRecipe(
        method=method, ratio=0.3, tile=TILE, calib=str(text_file), windows=4, length=16, repair="none", steps=2,
        device="cpu", prior="wanda", precision="fp32",
    )  # fmt: skip
    masks = learn(make_model(), recipe, tmp_path / "s").masks
    if method == "patch-tile" and masks.record.train.kept == "prior":
        assert len(masks.record.train.kl) == 1 or masks.record.scores is None
        return
    masks.save(tmp_path / "masks")
    scores = MaskSet.load(tmp_path / "masks").record.scores
    assert sum(scores.sparse.weights) == 2 * masks.zeroed
    assert sum(scores.dense.weights) == masks.weights - 2 * masks.zeroed
