"""A ratio counts over linears that can gain, and linears with too few 2:4 tiles to gain are left whole."""

import numpy as np
import pytest

from masklearn.choice.goal import Goal
from masklearn.choice.losses import Losses
from masklearn.choice.select import select
from masklearn.choice.solve import Chooser
from masklearn.masks.tiles import tile_weights
from patch_compile.artifacts.prediction import Workload
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.gains import GainGoal, WhereItGains
from patch_compile.planning.lowering import plan_linears
from patch_compile.planning.planner import plan_assumed
from patch_compile.planning.tile_map import tile_maps

TILE = (128, 128)
COSTS = CostModel(card_of("a6000"), Workload(batch=16, prompt=128, generated=128))
LINEARS = {"tiny": (256, 256), "up": (11008, 4096), "down": (4096, 11008), "o": (4096, 4096)}


def chosen(linears, goal, costs=COSTS, **factors):
    gains = GainGoal.of(goal, linears, lambda ratios: plan_assumed(linears, TILE, ratios, "auto", costs))
    areas = {name: tile_weights(shape, TILE) for name, shape in linears.items()}
    rng = np.random.default_rng(0)
    scores = {
        name: factors.get(name, 1.0) * rng.lognormal(size=grid.shape) * grid for name, grid in areas.items()
    }
    price = WhereItGains(gains, TILE, lambda masks: plan_linears(masks, "auto", costs), costs)
    choose = Chooser({}, price, gains.goal)
    found = choose(Losses(scores, areas))
    tiles, filled = found.tiles, found.goal
    plans = plan_linears(tile_maps(linears, TILE, tiles), "auto", costs)
    assert not any(plan.zeroed for plan in plans.values() if plan.lowering == "dense")
    return gains, choose, tiles, filled, (scores, areas)


def zeroed(linears, tiles, *names):
    return sum(int(tiles[name].sum()) for name in names) * 128 * 128 / 2


def test_ratios_count_over_gaining_linears():
    gains, _, tiles, filled, (_, areas) = chosen(LINEARS, Goal.of_ratio(0.3))
    assert gains.counted.keys() == {"up", "down", "o"} and gains.asked == 4
    weights = sum(n * k for name, (n, k) in LINEARS.items() if name != "tiny")
    assert zeroed(LINEARS, tiles, "up", "down", "o") == pytest.approx(0.3 * weights, rel=1e-3)
    assert filled.ratio(areas) * (weights + 256 * 256) == pytest.approx(0.3 * weights)
    assert filled.asked(areas) == pytest.approx(0.3)


def test_linears_with_few_tiles_stay_whole():
    everywhere = chosen(LINEARS, Goal.of_ratio(0.3), o=1.0)[2]
    gains, choose, tiles, filled, (scores, areas) = chosen(LINEARS, Goal.of_ratio(0.3), o=30.0)
    assert everywhere["o"].any() and not tiles["o"].any()
    assert "o" in gains.counted and "o" in filled.dense
    other = {name: grid[::-1] for name, grid in scores.items()} | {"o": scores["o"] * 1e-9}
    again = choose(Losses(other, areas))
    assert not again.tiles["o"].any()  # left dense once, it stays dense


def test_stayers_take_over_what_falls_out():
    gains, _, tiles, filled, (scores, areas) = chosen(LINEARS, Goal.of_ratio(0.3), o=12.0)
    first = select(scores, areas, gains.goal)
    assert first["o"].any() and not tiles["o"].any() and filled.spared >= {"o"}
    counted = sum(n * k for name, (n, k) in LINEARS.items() if name != "tiny")
    assert abs(zeroed(LINEARS, tiles, "up", "down") - 0.3 * counted) <= 128 * 128 / 4
    assert all((tiles[name] | ~first[name]).all() for name in ("up", "down"))


def test_small_linears_share_a_ratio():
    linears = {f"l{i}": (128, 128) for i in range(10)}
    gains, _, tiles, *_ = chosen(linears, Goal.of_ratio(0.2), None)
    even = gains.settled_evenly(lambda ratios: plan_assumed(linears, TILE, ratios, "auto", None))
    assert len(even.counted) == len(linears)
    assert sum(int(grid.sum()) for grid in tiles.values()) == 4
