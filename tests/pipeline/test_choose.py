"""A speed that `plan` answers is a speed that `build` reaches: one function decides for both."""

import json

import numpy as np
import pytest

from masklearn.masks.tiles import tile_weights
from patch_compile.pipeline.choose import chooser_of
from patch_compile.pipeline.plan import plan
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.tile_map import unpatterned
from patch_compile.recipe import Recipe
from patch_compile.sources.open import open_source
from tests.planning.llama import LLAMA_2_7B
from tests.refusals import refused

# On an A6000 no single linear of it gains, but gate and up gain as one node.
SMALL = LLAMA_2_7B | {"hidden_size": 256, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 4,
                      "num_key_value_heads": 1, "head_dim": 256}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    return tmp_path


ONLY_TILES = {"weights": "float16", "kinds": "2:4", "tile": "128x128"}


def recipe(model, **settings):
    return Recipe.parse({"model": model, "target": "a6000", **settings})


def build_for(asked, seed=0):
    """The chooser of a build, and its tiles for scores at random."""
    source = open_source(asked, weights=False)
    costs = CostModel(card_of(asked.target), source.workload)
    choose = chooser_of(source, costs, pytest.fail)
    linears, rng = source.coverage.linears, np.random.default_rng(seed)
    areas = {name: tile_weights(shape, asked.tile) for name, shape in linears.items()}
    tiles, _ = choose({name: rng.lognormal(size=grid.shape) * grid for name, grid in areas.items()}, areas)
    plans = source.plan(unpatterned(linears, asked.tile, tiles), costs)
    return plans, predict_whole(plans.values(), source.outline, costs).end_to_end


def test_joint_gains_reach_a_speed(model):
    most = plan(recipe(model, ratio=0.5, kinds="2:4")).whole.end_to_end.speedup
    assert most > 1.001
    alone = {row.name: row.predicted for row in plan(recipe(model, ratio=0.5)).linears}
    workload = CostModel(card_of("a6000"), open_source(recipe(model, ratio=0.5), weights=False).workload)
    assert not any(workload.sparse(times) < workload.dense(times) for times in alone.values())
    for share in (0.3, 0.9, 0.999):
        asked = recipe(model, speedup=1 + share * (most - 1), **ONLY_TILES)
        planned = plan(asked)
        assert asked.speedup <= planned.whole.end_to_end.speedup <= most
        for seed in (0, 1):
            plans, found = build_for(asked, seed)
            assert found.speedup >= asked.speedup
            assert not any(one.lowering == "dense" and one.zeroed for one in plans.values())


def test_plan_and_build_refuse_speeds_alike(model):
    asked = recipe(model, speedup=1.5, **ONLY_TILES)
    with refused() as planned:
        plan(asked)
    with refused() as built:
        build_for(asked)
    assert (planned.error.what, planned.error.why) == (built.error.what, built.error.why)
