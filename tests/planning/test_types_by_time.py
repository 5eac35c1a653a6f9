"""Weight types and tiles that are chosen for a speed reach it narrowly, and lose less than one type for all linears."""

from collections import Counter
from math import prod

import numpy as np
import pytest

from masklearn.choice.losses import Losses, RoundingLoss
from masklearn.masks.kinds.table import PRUNED, TWO_FOUR
from masklearn.masks.tiles import tile_weights
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8
from patch_compile.artifacts.prediction import Workload
from patch_compile.errors import SpeedError
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.outline import outline_of_llama
from patch_compile.planning.planner import plan_model
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.price_by_time import SpeedTask, by_time
from patch_compile.planning.roofline.rest import Model
from patch_compile.planning.speed_goal import SpeedGoal
from patch_compile.planning.tile_map import tile_maps
from tests.planning.assumed import unpatterned
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


def task(speedup, options=OPTIONS):
    kinds = dict.fromkeys(LINEARS, (TWO_FOUR,))
    return SpeedTask(SpeedGoal(speedup), COSTS, OUTLINE, LINEARS, TILE, "auto", kinds, options)


def chosen(speedup, options=OPTIONS):
    return by_time(task(speedup, options))(Losses(SCORES, AREAS, ROUNDING))


def planned(found):
    quantised = {name: kind for name, kind in found.types.items() if kind.quantised}
    tiles = tile_maps(LINEARS, TILE, found.tiles.kinds)
    plans = plan_model(tiles, "auto", OUTLINE, COSTS, quantised)
    return predict_whole(plans.values(), OUTLINE, COSTS).end_to_end


@pytest.fixture(scope="module")
def by_speed():
    return {speedup: chosen(speedup) for speedup in (1.1, 1.5, 1.9)}


def test_asked_speeds_are_met_closely(by_speed):
    for speedup, found in by_speed.items():
        masks = unpatterned(LINEARS, TILE, found.tiles.kinds)
        record = by_time(task(speedup)).record(found, masks, dict.fromkeys(LINEARS, (TWO_FOUR,)))
        assert record.reached == pytest.approx(planned(found).speedup, rel=1e-5) and record.reached >= speedup
        tiles = sum(int(grid.sum()) for grid in found.tiles.values())
        assert record.reached < speedup * 1.02 or not tiles  # a type is for a whole linear
        lost = sum(float(SCORES[name][found.tiles[name]].sum()) for name in LINEARS)
        rounded = sum(ROUNDING[name].by_type.get(kind, 0.0) for name, kind in found.types.items())
        assert record.rounding == pytest.approx(rounded, rel=1e-5)
        assert record.bound == pytest.approx(found.bound, rel=1e-5)
        assert record.loss == pytest.approx(lost + rounded, rel=1e-5) and found.loss == pytest.approx(
            lost + rounded
        )
        assert record.kinds["2:4"] == pytest.approx(
            tiles * 128**2 / sum(map(prod, LINEARS.values())), rel=1e-5
        )
        assert sum(record.types.values()) == pytest.approx(1.0) and record.types.keys() == {
            "float16",
            "int8",
            "int4",
        }
        assert found.goal.unit == "µs"


def test_more_speed_takes_smaller_types(by_speed):
    counts = [Counter(map(str, found.types.values())) for found in by_speed.values()]
    fours = [count["int4"] for count in counts]
    assert fours == sorted(fours) and fours[0] == 0 and fours[-1] > fours[1]
    assert counts[0]["float16"] > counts[-1]["float16"] == 0
    assert any(len(count) > 1 for count in counts)
    losses = [found.loss for found in by_speed.values()]
    assert losses == sorted(losses)


def test_linears_of_one_input_have_one_type(by_speed):
    for found in by_speed.values():
        for group in OUTLINE.groups:
            assert len({found.types[name] for name in group.linears}) == 1


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_one_type_for_all_loses_more(by_speed, kind):
    compared = 0
    for speedup, found in by_speed.items():
        try:
            alike = chosen(speedup, dict.fromkeys(LINEARS, (kind,)))
        except SpeedError:
            continue
        assert found.loss <= alike.loss * 1.001
        compared += 1
    assert compared


def test_prompts_take_int8_products():
    """In prompts int8 and int4 weights save nothing, and w8a8 doubles the rate of products."""
    costs = CostModel(card_of("a6000"), Workload(batch=16, prompt=512, generated=2))
    kinds = dict.fromkeys(LINEARS, (TWO_FOUR, PRUNED["8:16"]))
    types = dict.fromkeys(LINEARS, (FLOAT16, INT8, W8A8, INT4))
    task = SpeedTask(SpeedGoal(1.5), costs, OUTLINE, LINEARS, TILE, "auto", kinds, types)
    scores = {name: {TWO_FOUR: grid, PRUNED["8:16"]: 0.9 * grid} for name, grid in SCORES.items()}
    rounding = {
        name: RoundingLoss(one.by_type | {W8A8: 0.01 * SCORES[name].sum()}, one.inputs)
        for name, one in ROUNDING.items()
    }
    found = by_time(task)(Losses(scores, AREAS, rounding))
    assert W8A8 in found.types.values() and INT4 not in found.types.values()
    for name, weights in found.types.items():
        assert weights is not W8A8 or not (found.tiles.kinds[name] == PRUNED["8:16"].code).any()


def test_speeds_beyond_all_types_are_refused():
    with refused():
        chosen(9.0)
