"""Plans of tiles of several kinds: what a ratio assumes, predicted times, and tiles chosen for a speed."""

from __future__ import annotations

import numpy as np
import pytest

from masklearn.choice.losses import Losses
from masklearn.masks.kinds.table import BY_CODE, DENSE, PRUNED, TWO_FOUR
from masklearn.quant.table import FLOAT16
from patch_compile.artifacts.prediction import Workload
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import plan_linear, plan_linears
from patch_compile.planning.outline import Outline
from patch_compile.planning.planner import assumed_tiles, plan_assumed
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.price_by_time import SpeedTask, by_time
from patch_compile.planning.roofline.rest import Model
from patch_compile.planning.speed_goal import SpeedGoal
from patch_compile.planning.tile_map import tile_maps
from tests.mosaics import IN_16_BITS
from tests.planning.assumed import assumed_mask

SHAPE, TILE = (4096, 4096), (128, 128)
NAMES = ("2:4", "8:16", "12:16")
AUTO = tuple(PRUNED[name] for name in NAMES)
COSTS = CostModel(card_of("a6000"), Workload(batch=1, prompt=16, generated=512))


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.125, 0.3, 0.4, 0.5])
def test_a_ratio_assumes_the_two_nearest_kinds(ratio):
    mask = assumed_mask(SHAPE, TILE, ratio, AUTO)
    there = [BY_CODE[int(code)] for code in np.unique(mask.kinds)]
    assert abs(mask.zeroed / np.prod(SHAPE) - ratio) < 1e-3 and len(there) <= 2
    zeros = sorted({0.0, *(kind.zeros for kind in AUTO)})
    around = [z for z in zeros if z <= ratio][-1:] + [z for z in zeros if z >= ratio][:1]
    assert {kind.zeros for kind in there} <= {*around}
    assert TWO_FOUR not in there  # 8:16 has its bytes, and loses less


@pytest.mark.parametrize("kind", IN_16_BITS[1:], ids=str)
def test_decode_takes_the_time_of_its_bytes(kind):
    """On a card whose DRAM is slow for its SMs, a kind is as fast as its bytes, to the launch and the kernel's ends."""
    tiles = {"x": np.full((32, 32), kind.code, np.uint8)}
    (plan,) = plan_linears(tile_maps({"x": SHAPE}, TILE, tiles), "plugin", COSTS).values()
    assert plan.slabs.by_kind[kind.name] == (64 if kind is not TWO_FOUR else 32) * 64
    times = plan.predicted.decode
    share = plan.bytes_after / plan.bytes_before
    assert share == pytest.approx(kind.bytes_per_weight / 2, rel=0.01)
    assert share - 0.01 < times.hybrid / times.dense < share + 0.15


def test_linears_of_other_kinds_are_open_to_auto():
    """A decode workload packs them, and a workload of long prompts leaves them dense."""
    kinds = {"x": (PRUNED["8:16"],)}
    decode, prompts = COSTS, CostModel(card_of("a6000"), Workload(batch=1, prompt=4096, generated=1))
    lowerings = [
        plan_assumed({"x": SHAPE}, TILE, {"x": 0.5}, "auto", costs, kinds)["x"].lowering
        for costs in (decode, prompts)
    ]
    assert lowerings == ["plugin", "dense"]


OUTLINE = Outline(Model(1, 4096, 11008, 32, 32, 128, 0, name="m"))


def tiles_for(goal, linears, kinds):
    allowed, types = dict.fromkeys(linears, kinds), dict.fromkeys(linears, (FLOAT16,))
    return by_time(SpeedTask(goal, COSTS, OUTLINE, linears, TILE, "plugin", allowed, types))


@pytest.mark.parametrize("kinds", [(TWO_FOUR,), AUTO], ids=["2:4", "auto"])
def test_tiles_reach_a_speed_at_least_loss(kinds):
    """Scores grow faster than the bytes saved, as real scores do: with more kinds to choose from they are lower."""
    linears = {"a": SHAPE, "b": (11008, 4096)}
    goal = SpeedGoal(speedup=1.25)
    choose = tiles_for(goal, linears, kinds)
    rng = np.random.default_rng(0)
    areas = {name: np.full((n // 128, k // 128), 128 * 128) for name, (n, k) in linears.items()}
    size = {name: rng.uniform(0.5, 2, grid.shape) for name, grid in areas.items()}
    # 2:4 loses more than 8:16, which has its bytes.
    loss = {kind: kind.zeros**2 * (1.6 if kind is TWO_FOUR else 1) for kind in kinds}
    scores = {name: {kind: size[name] * loss[kind] for kind in kinds} for name in linears}
    chosen = choose(Losses(scores, areas))
    plans = plan_linears(tile_maps(linears, TILE, chosen.tiles.kinds), "plugin", COSTS)
    found = predict_whole(plans.values(), OUTLINE, COSTS).end_to_end
    assert goal.met(found) and found.speedup < 1.26
    assert found.speedup <= found.limit
    there = {BY_CODE[int(code)] for grid in chosen.tiles.kinds.values() for code in np.unique(grid)}
    assert there <= {DENSE, *kinds}
    if len(kinds) > 1:
        assert there == {PRUNED["8:16"], PRUNED["12:16"]}
        assert chosen.loss < 0.75 * _cost_of_two_four(goal, linears, areas, size)


def _cost_of_two_four(goal, linears, areas, size):
    scores = {name: grid * 0.25 * 1.6 for name, grid in size.items()}
    return tiles_for(goal, linears, (TWO_FOUR,))(Losses(scores, areas)).loss


def test_plans_need_only_the_tiles():
    kinds = tuple(PRUNED[name] for name in ("2:4", "8:16", "12:16"))
    for shape, ratio in (((1000, 512), 0.2), ((300, 640), 0.35), ((256, 256), 0.5)):
        tiles, mask = (one(shape, (128, 128), ratio, kinds) for one in (assumed_tiles, assumed_mask))
        assert plan_linear("x", tiles) == plan_linear("x", mask)
        assert (tiles.zeroed, tiles.by_kind()) == (mask.zeroed, mask.by_kind())
