"""Weight types and tiles that are chosen for a speed reach it narrowly, and lose less than one type for all linears."""

from collections import Counter

import numpy as np
import pytest

from masklearn.masks.kinds.table import PRUNED, TWO_FOUR
from masklearn.masks.select import RoundingLoss
from masklearn.masks.tiles import tile_weights
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8
from patch_compile.artifacts.prediction import Workload
from patch_compile.errors import SpeedError
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import plan_linears
from patch_compile.planning.outline import outline_of_llama
from patch_compile.planning.planner import settle_together
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.roofline.rest import Model
from patch_compile.planning.speed_goal import SpeedGoal
from patch_compile.planning.tile_map import unpatterned
from patch_compile.planning.tiles_for_speed import SpeedTask, TilesForSpeed
from patch_compile.planning.types_for_speed import TypesForSpeed
from tests.refusals import refused

TILE = (128, 128)
COSTS = CostModel(card_of("a6000"), Workload(batch=16, prompt=16, generated=128))
LINEARS, OUTLINE = outline_of_llama(Model(2, 2048, 5632, 16, 16, 128, 0, name="m"))
ALL = (FLOAT16, INT8, INT4)
OPTIONS = dict.fromkeys(LINEARS, ALL)
AREAS = {name: tile_weights(shape, TILE) for name, shape in LINEARS.items()}
RNG = np.random.default_rng(0)
SCORES = {name: RNG.lognormal(sigma=1.5, size=grid.shape) for name, grid in AREAS.items()}
FIRST = {name: one.linears[0] for one in OUTLINE.groups for name in one.linears}
ROUNDING = {
    name: RoundingLoss(
        {INT8: RNG.uniform(1e-4, 1e-2) * scores.sum(), INT4: RNG.uniform(0.02, 0.4) * scores.sum()},
        FIRST.get(name, name),
    )
    for name, scores in SCORES.items()
}


def task(speedup, lowering="auto"):
    kinds = dict.fromkeys(LINEARS, (TWO_FOUR,))
    return SpeedTask(SpeedGoal(speedup), COSTS, OUTLINE, LINEARS, TILE, lowering, kinds)


def chosen(speedup, options=OPTIONS, lowering="auto"):
    choose = TypesForSpeed(task(speedup, lowering), options)
    tiles, budget = choose(SCORES, AREAS, ROUNDING)
    return tiles, budget, choose.record


def planned(tiles, types):
    plans = plan_linears(unpatterned(LINEARS, TILE, tiles.kinds), "auto", COSTS, types)
    plans = settle_together(plans, "auto", OUTLINE, COSTS)
    return predict_whole(plans.values(), OUTLINE, COSTS).end_to_end


@pytest.fixture(scope="module")
def by_speed():
    return {speedup: chosen(speedup) for speedup in (1.1, 1.5, 1.9)}


def test_asked_speeds_are_met_closely(by_speed):
    for speedup, (tiles, budget, record) in by_speed.items():
        found = planned(tiles, tiles.types)
        assert found.speedup >= speedup
        assert found.speedup < speedup * 1.02 or not record.tiles  # a type is for a whole linear
        lost = sum(float(SCORES[name][tiles[name]].sum()) for name in LINEARS)
        assert record.cost == pytest.approx(lost)
        rounded = sum(ROUNDING[name].by_type.get(kind, 0.0) for name, kind in tiles.types.items())
        assert record.rounding == pytest.approx(rounded)
        assert record.tiles == sum(int(grid.sum()) for grid in tiles.values())
        assert budget.unit == "µs"


def test_more_speed_takes_smaller_types(by_speed):
    counts = [Counter(map(str, tiles.types.values())) for tiles, _, _ in by_speed.values()]
    fours = [count["int4"] for count in counts]
    assert fours == sorted(fours) and fours[0] == 0 and fours[-1] > fours[1]
    assert counts[0]["float16"] > counts[-1]["float16"] == 0
    assert any(len(count) > 1 for count in counts)
    losses = [record.cost + record.rounding for _, _, record in by_speed.values()]
    assert losses == sorted(losses)


def test_linears_of_one_input_have_one_type(by_speed):
    for tiles, _, _ in by_speed.values():
        for group in OUTLINE.groups:
            assert len({tiles.types[name] for name in group.linears}) == 1


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_one_type_for_all_loses_more(by_speed, kind):
    types = {} if kind is FLOAT16 else dict.fromkeys(LINEARS, kind)
    alike = sum(ROUNDING[name].by_type[kind] for name in types)
    compared = 0
    for speedup, (_, _, record) in by_speed.items():
        choose = TilesForSpeed(task(speedup), types)
        try:
            choose(SCORES, AREAS)
        except SpeedError:
            continue
        assert record.cost + record.rounding <= (choose.record.cost + alike) * 1.001
        compared += 1
    assert compared


def test_forbidden_types_are_not_chosen():
    fixed = OPTIONS | {name: (INT8,) for name in LINEARS if name.endswith("down_proj")}
    fixed |= {name: (FLOAT16, INT8) for name in LINEARS if "layers.0" in name and name not in FIRST}
    tiles, _, _ = chosen(1.8, fixed)
    assert all(tiles.types[name] in kinds for name, kinds in fixed.items())


def test_prompts_take_int8_products():
    """In prompts int8 and int4 weights save nothing, and w8a8 doubles the rate of products."""
    costs = CostModel(card_of("a6000"), Workload(batch=16, prompt=512, generated=2))
    kinds = dict.fromkeys(LINEARS, (TWO_FOUR, PRUNED["8:16"]))
    task = SpeedTask(SpeedGoal(1.5), costs, OUTLINE, LINEARS, TILE, "auto", kinds)
    scores = {name: {TWO_FOUR: grid, PRUNED["8:16"]: 0.9 * grid} for name, grid in SCORES.items()}
    rounding = {
        name: RoundingLoss(one.by_type | {W8A8: 0.01 * SCORES[name].sum()}, one.inputs)
        for name, one in ROUNDING.items()
    }
    choose = TypesForSpeed(task, dict.fromkeys(LINEARS, (FLOAT16, INT8, W8A8, INT4)))
    tiles, _ = choose(scores, AREAS, rounding)
    assert W8A8 in tiles.types.values() and INT4 not in tiles.types.values()
    for name, weights in tiles.types.items():
        assert weights is not W8A8 or not (tiles.kinds[name] == PRUNED["8:16"].code).any()


def test_speeds_beyond_all_types_are_refused():
    with refused():
        chosen(9.0)


def test_a_plan_assumes_types_that_reach_the_speed():
    types = TypesForSpeed(task(1.75), OPTIONS).assumed().types
    plans = TilesForSpeed(task(1.75), types).assumed()
    found = predict_whole(plans.values(), OUTLINE, COSTS).end_to_end
    assert 1.75 <= found.speedup < 1.92
    assert {INT8, INT4} == {*types.values()}
