"""Tiles chosen for a speed reach it narrowly, at the least loss, and each of them saves time."""

import numpy as np
import pytest

from masklearn.choice.losses import Losses
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.tiles import grid_shape, tile_weights
from masklearn.quant.table import FLOAT16
from patch_compile.artifacts.plan import ReasonKind
from patch_compile.artifacts.prediction import Workload
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import plan_linears
from patch_compile.planning.outline import Outline
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.price_by_time import SpeedTask, by_time
from patch_compile.planning.roofline.rest import Model
from patch_compile.planning.speed_goal import SpeedGoal
from patch_compile.planning.tile_map import tile_maps
from tests.planning.assumed import unpatterned
from tests.refusals import refused

TILE = (128, 128)
COSTS = CostModel(card_of("a6000"), Workload(batch=16, prompt=128, generated=128))
OUTLINE = Outline(Model(1, 4096, 11008, 32, 32, 128, 0, name="m"))
LINEARS = {
    "q": (4096, 4096),
    "k": (1024, 4096),
    "tiny": (256, 256),
    "up": (11008, 4096),
    "down": (4096, 11008),
}


def scored(seed=0, **factors):
    rng = np.random.default_rng(seed)
    areas = {name: tile_weights(shape, TILE) for name, shape in LINEARS.items()}
    scores = {
        name: factors.get(name, 1.0) * rng.lognormal(size=grid_shape(shape, TILE))
        for name, shape in LINEARS.items()
    }
    return scores, areas


def chosen(goal, scores, areas, lowering="auto"):
    kinds, types = (dict.fromkeys(LINEARS, (one,)) for one in (TWO_FOUR, FLOAT16))
    choose = by_time(SpeedTask(goal, COSTS, OUTLINE, LINEARS, TILE, lowering, kinds, types))
    found = choose(Losses(scores, areas))
    return found.tiles, found.goal, choose.record(found, unpatterned(LINEARS, TILE, found.tiles.kinds), kinds)


def planned(tiles, lowering="auto"):
    plans = plan_linears(tile_maps(LINEARS, TILE, tiles), lowering, COSTS)
    return plans, predict_whole(plans.values(), OUTLINE, COSTS).end_to_end


@pytest.mark.parametrize("speedup", [1.02, 1.1, 1.2, 1.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_asked_speeds_are_met_closely(speedup, seed):
    goal = SpeedGoal(speedup=speedup)
    tiles, _, record = chosen(goal, *scored(seed))
    plans, found = planned(tiles)
    assert goal.met(found)
    # a schedule may save a whole wave of tiles at once
    assert found.speedup < speedup * 1.01
    pruned = sum(int(grid.sum()) for grid in tiles.values()) * 128 * 128
    weights = sum(rows * columns for rows, columns in LINEARS.values())
    assert record.kinds == pytest.approx({"dense": 1 - pruned / weights, "2:4": pruned / weights}, rel=1e-5)
    assert tiles.fills[0].tiles * 128 * 128 == pruned
    assert not any(plan.lowering == "dense" and plan.tiles.sparse for plan in plans.values())


def test_a_budget_of_milliseconds_is_met_too():
    _, dense = planned({name: np.zeros(grid_shape(shape, TILE), np.bool_) for name, shape in LINEARS.items()})
    goal = SpeedGoal(budget_ms=dense.dense_ms / 1.2)
    tiles, _, record = chosen(goal, *scored())
    by_speed, _, _ = chosen(SpeedGoal(speedup=1.2), *scored())
    assert planned(tiles)[1].planned_ms <= goal.milliseconds(dense.dense_ms)
    assert all(np.array_equal(tiles[name], by_speed[name]) for name in LINEARS)
    assert record.unit == "budget_ms" and 0.99 * record.asked < record.reached <= record.asked


def test_loss_is_within_a_tile_of_optimal():
    scores, areas = scored()
    tiles, filled, record = chosen(SpeedGoal(speedup=1.2), scores, areas)
    lost = sum(float(scores[name][tiles[name]].sum()) for name in LINEARS)
    dearest = max(float(scores[name][tiles[name]].max(initial=0)) for name in LINEARS)
    assert record.loss == pytest.approx(lost, rel=1e-5)
    assert 0 <= record.loss - record.bound <= dearest
    (fill,) = tiles.fills
    assert (filled.unit, filled.amount) == ("µs", pytest.approx(fill.saved, rel=1e-2))


def test_loss_per_microsecond_decides():
    tiles, _, _ = chosen(SpeedGoal(speedup=1.1), *scored(tiny=1e-9, q=100.0))
    assert not tiles["tiny"].any()  # although its tiles are by far the cheapest
    assert not tiles["q"].any() and tiles["up"].any() and tiles["down"].any()


def test_too_few_tiles_do_not_pay():
    """Three tiles of q are free, but they would save less than the kernel adds."""
    scores, areas = scored(q=100.0)
    scores["q"][0, :3] = 1e-9
    tiles, _, record = chosen(SpeedGoal(speedup=1.1), scores, areas)
    assert not tiles["q"].any()
    plans, found = planned(tiles)
    assert plans["q"].reason.kind is ReasonKind.NO_SPARSE_TILE and found.speedup >= 1.1
    assert record.loss == pytest.approx(sum(float(scores[n][tiles[n]].sum()) for n in LINEARS), rel=1e-5)


def test_lowerings_that_are_asked_for_bound_the_choice():
    tiles, _, _ = chosen(SpeedGoal(speedup=1.1), *scored(), lowering="up=dense,q=split")
    assert not tiles["up"].any() and not tiles["q"].any() and tiles["down"].any()
    assert planned(tiles, "up=dense,q=split")[1].speedup >= 1.1


def test_unreachable_speeds_name_the_reachable():
    with refused():
        chosen(SpeedGoal(speedup=1.9), *scored())


def test_random_choices_never_lose_less():
    scores, areas = scored()
    tiles, _, record = chosen(SpeedGoal(speedup=1.15), scores, areas)
    rng = np.random.default_rng(0)
    for _ in range(5):
        order = [(name, *place) for name in ("q", "up", "down") for place in np.ndindex(tiles[name].shape)]
        rng.shuffle(order)
        other = {name: np.zeros_like(grid) for name, grid in tiles.items()}
        for name, i, j in order[: tiles.fills[0].tiles]:
            other[name][int(i), int(j)] = True
        assert sum(float(scores[name][other[name]].sum()) for name in LINEARS) > record.loss
