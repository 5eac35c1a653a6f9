from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklearn.learning import learn
from masklearn.masks.budget import BYTES, WEIGHTS, Budget
from masklearn.masks.kinds.table import BY_CODE, DENSE, PRUNED
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import ZeroScores
from masklearn.masks.score_summary import summarise_scores
from masklearn.masks.select import select, tile_savings
from masklearn.masks.tiles import tile_weights
from masklearn.methods import method_of
from masklearn.methods.gradient import prior
from masklearn.recipe import LearnRecipe
from masklearn.traits import Requires
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
def test_histogram_bins_partition_the_tiles(seed: int, ratio: float, spread: float) -> None:
    scores, areas = scored(seed, spread)
    budget = Budget.of(ratio)
    tiles = select(scores, areas, budget)
    summary = summarise_scores(scores, areas, tiles.kinds, budget, "loss")
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


@given(st.integers(0, 10_000), st.floats(0.1, 0.8), st.sampled_from([WEIGHTS, BYTES]))
def test_each_tile_counts_in_one_histogram(seed: int, share: float, unit: str) -> None:
    """Scores that rise with the share that a kind prunes. The cut is found from the selection: no cheaper step was left."""
    base, areas = scored(seed)
    kinds, rng = [PRUNED[name] for name in ("2:4", "8:16", "12:16")], np.random.default_rng(seed)
    scores = {
        name: {kind: grid * kind.zeros**2 * rng.lognormal(0, 0.3, grid.shape) for kind in kinds}
        for name, grid in base.items()
    }
    weights = sum(int(grid.sum()) for grid in areas.values())
    budget = Budget.of(share / 2) if unit == WEIGHTS else Budget.saving(0.875 * share * weights, BYTES)
    chosen = select(scores, areas, budget).kinds
    summary = summarise_scores(scores, areas, chosen, budget, "loss")
    assert summary is not None and "over all linears together" in summary.ranked
    assert summary.unit == ("loss, per zeroed weight" if unit == WEIGHTS else "loss, per saved byte")
    codes = np.concatenate([grid.ravel() for grid in chosen.values()])
    area = np.concatenate([grid.ravel() for grid in areas.values()])
    counts = {"dense": summary.dense, "2:4": summary.sparse} | summary.others
    assert all(name in summary.others for name in ("8:16", "12:16") if (codes == PRUNED[name].code).any())
    for kind in (DENSE, *kinds):
        held = counts.get(kind.name)
        assert (sum(held.tiles) if held else 0) == (codes == kind.code).sum()
        assert (sum(held.weights) if held else 0) == area[codes == kind.code].sum()
    assert summary.cut is not None
    for name, grid in chosen.items():
        for place, code in np.ndenumerate(grid):
            at = {
                kind: (tile_savings(kind, areas[name], unit)[place], scores[name][kind][place])
                for kind in kinds
            }
            saved, cost = at.get(BY_CODE[int(code)], (0.0, 0.0))
            for (
                more,
                costs,
            ) in at.values():  # a tile that saves more at less than the cut would have been taken
                assert more <= saved or (costs - cost) / (more - saved) >= summary.cut * (1 - 1e-9)


def test_tiles_count_at_their_own_kinds_score() -> None:
    kinds = [PRUNED["2:4"], PRUNED["12:16"]]
    areas = {"a": np.full((1, 3), 64 * 64)}
    per_weight = {kinds[0]: np.array([[4.0, 8.0, 40.0]]), kinds[1]: np.array([[2.0, 2.0, 20.0]])}
    scores = {"a": {kind: grid * areas["a"] * kind.zeros for kind, grid in per_weight.items()}}
    chosen = {"a": np.array([[kinds[0].code, kinds[1].code, 0]], np.uint8)}
    summary = summarise_scores(scores, areas, chosen, Budget.of(0.25), "loss")
    assert summary is not None and (summary.edges[0], summary.edges[-1]) == (2.0, 20.0)
    bins = {name: counts.tiles.index(1) for name, counts in summary.others.items()}
    assert bins == {"12:16": 0} and summary.dense.tiles[-1] == 1
    at = summary.sparse.tiles.index(1)
    assert summary.edges[at] <= 4.0 < summary.edges[at + 1]
    # From 12:16, which costs 2 for each of a quarter of the weights, to 2:4, which costs 4 for each of a half.
    assert summary.cut == pytest.approx((4 * 0.5 - 2 * 0.25) / 0.25)


def test_a_bin_counts_what_lies_between_its_edges() -> None:
    scores, areas = scored(3)
    budget = Budget.of(0.3)
    tiles = select(scores, areas, budget)
    summary = summarise_scores(scores, areas, tiles.kinds, budget, "loss")
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
    chosen = select(scores, areas, budget).kinds
    assert summarise_scores(scores, areas, chosen, budget, "loss") is None


def test_free_tiles_lie_in_no_bin() -> None:
    scores, areas = scored(1)
    scores["layers.0.up"][:2] = 0.0
    budget = Budget.of(0.3)
    tiles = select(scores, areas, budget)
    summary = summarise_scores(scores, areas, tiles.kinds, budget, "loss")
    assert summary is not None
    assert summary.zero == ZeroScores(dense=0, sparse=scores["layers.0.up"][:2].size)
    every = sum(sum(getattr(summary, kind).tiles) for kind in ("dense", "sparse"))
    assert every + summary.zero.sparse == sum(grid.size for grid in areas.values())


def test_several_budgets_have_no_common_cut() -> None:
    scores, areas = scored(1)
    by_pattern = Budget.of("up=0.4,down=0.1")
    summary = summarise_scores(scores, areas, select(scores, areas, by_pattern).kinds, by_pattern, "loss")
    assert summary is not None and summary.cut is None and "in 2 groups" in summary.ranked
    saving = Budget.saving(900.0, "µs")
    saves = {name: area / 10 for name, area in areas.items()}
    summary = summarise_scores(scores, areas, select(scores, areas, saving, saves).kinds, saving, "loss")
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
    recipe, why_not = LearnRecipe(**settings), [Requires.LOSS] if encoder else []
    assert words in method_of(recipe.method).score_unit(recipe, why_not)


@pytest.mark.parametrize("method", ["oneshot", "wanda", "patch-tile"])
def test_learned_masks_hold_it(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learned tiles, which come last, are made to win the contest with the prior's."""
    monkeypatch.setattr(prior, "divergences", lambda dense, pruned, *_: [-i for i in range(len(pruned))])
    recipe = LearnRecipe(
        method=method, ratio=0.3, tile=TILE, calib=str(text_file), windows=4, length=16, repair="none", steps=4,
        device="cpu", prior="wanda", precision="fp32", learning_rate=0.1,
    )  # fmt: skip
    masks = learn(make_model(), recipe, tmp_path / "s").masks
    assert method != "patch-tile" or masks.record.train.kept != "prior"
    masks.save(tmp_path / "masks")
    scores = MaskSet.load(tmp_path / "masks").record.scores
    assert sum(scores.sparse.weights) == 2 * masks.zeroed
    assert sum(scores.dense.weights) == masks.weights - 2 * masks.zeroed


def test_learned_masks_of_several_kinds_hold_it(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    recipe = LearnRecipe(
        method="wanda", bytes_per_weight=1.5, kinds="2:4,8:16,12:16", tile=(64, 64), calib=str(text_file), windows=4,
        length=16, repair="none", device="cpu", precision="fp32",
    )  # fmt: skip
    made = learn(
        make_model(hidden_size=128, intermediate_size=192, num_hidden_layers=1), recipe, tmp_path / "s"
    )
    made.masks.save(tmp_path / "masks")
    masks = MaskSet.load(tmp_path / "masks")
    scores, found = masks.record.scores, masks.by_kind()
    assert scores is not None and scores.unit.endswith(", per saved byte") and scores.cut is not None
    counts = {"dense": scores.dense, "2:4": scores.sparse} | scores.others
    assert {name: sum(one.weights) for name, one in counts.items() if any(one.weights)} == {
        kind.name: weights for kind, weights in found.items()
    }
    assert len(scores.others) >= 1
