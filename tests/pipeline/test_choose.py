"""A speed that `plan` answers is a speed that `build` reaches: one function decides for both."""

import json
import re

import numpy as np
import pytest

from masklearn.choice.losses import Losses, RoundingLoss
from masklearn.masks.tiles import weights_of_tiles
from masklearn.quant.table import INT4, INT8, W8A8
from patch_compile.errors import SpeedError
from patch_compile.pipeline.choose import chooser_of, ratio_of, settle_open, with_pairs
from patch_compile.pipeline.plan import plan
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.tile_map import TileKinds, tile_maps
from patch_compile.recipe import Recipe
from patch_compile.sources.open import open_source
from patch_compile.sources.plan_task import PlanTask
from tests.planning.llama import LLAMA_2_7B

# On an A6000 no single linear of it gains, but gate and up gain as one node.
SMALL = LLAMA_2_7B | {"hidden_size": 256, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 4,
                      "num_key_value_heads": 1, "head_dim": 256}  # fmt: skip

SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 9,
           "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    return tmp_path


@pytest.fixture
def smollm2(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B | SMOLLM2))
    return tmp_path


ROUNDED = {INT8: 0.0007, W8A8: 0.0065, INT4: 0.084}  # losses as shares of the loss of all tiles
PROMPTS = {"target": "rtx4090", "prompt_tokens": 512, "generated_tokens": 1, "tile": "64x64"}
ONLY_TILES = {"weights": "float16", "kinds": "2:4", "tile": "128x128"}


def recipe(model, **settings):
    return Recipe.parse({"model": model, "target": "a6000"} | settings)


def build_for(asked, seed=0):
    """The plans of a build whose tiles, and types if they are open, are chosen by scores at random, and its speed."""
    task = PlanTask.of(open_source(asked, weights=False))
    costs = CostModel(card_of(asked.target), task.workload)
    task = settle_open(task, costs).task
    choose = chooser_of(task, costs, pytest.fail)
    linears, tile, rng = task.linears, task.recipe.tile_size, np.random.default_rng(seed)
    areas = weights_of_tiles(linears, tile)
    kinds = task.kinds
    losses = {name: rng.lognormal(size=grid.shape) * grid for name, grid in areas.items()}
    scores = {name: {kind: kind.zeros**1.5 * losses[name] for kind in kinds[name]} for name in linears}
    first = {name: one.linears[0] for one in task.outline.groups for name in one.linears}
    rounding = {
        name: RoundingLoss(
            {kind: rng.lognormal() * share * grid.sum() for kind, share in ROUNDED.items()},
            first.get(name, name),
        )
        for name, grid in losses.items()
    }
    found = choose(Losses(scores, areas, rounding))
    types = {name: kind for name, kind in found.types.items() if kind.quantised}
    plans = task.plan(tile_maps(linears, tile, found.tiles.kinds), costs, types)
    return plans, predict_whole(plans.values(), task.outline, costs).end_to_end


@pytest.mark.parametrize(
    "types", [{}, {"weights": "w8a8", "kinds": "auto"}, {"weights": "int8,w8a8"}], ids=str
)
def test_equal_losses_make_equal_plans_and_builds(smollm2, types):
    """A plan is the choice that a build makes of the losses that the plan assumes."""
    asked = recipe(smollm2, speedup=1.33, **PROMPTS, **types)
    task = PlanTask.of(open_source(asked, weights=False))
    costs = CostModel(card_of(asked.target), task.workload)
    task = settle_open(task, costs).task
    r, linears = task.recipe, task.linears
    first = {name: one.linears[0] for one in task.outline.groups for name in one.linears}
    inputs = {name: first.get(name, name) for name in linears}
    kinds = task.kinds
    losses = Losses.assumed(weights_of_tiles(linears, r.tile_size), kinds, inputs)
    found = chooser_of(task, costs, pytest.fail)(losses)
    planned = {row.name: row for row in plan(asked).linears}
    assert {name: row.weights for name, row in planned.items()} == {n: t.name for n, t in found.types.items()}
    zeroed = {
        name: TileKinds(shape, r.tile_size, found.tiles.kinds[name]).zeroed for name, shape in linears.items()
    }
    assert {name: row.zeroed for name, row in planned.items()} == zeroed


def test_joint_gains_reach_a_speed(model):
    most = plan(recipe(model, ratio=0.5, kinds="2:4")).whole.end_to_end.speedup
    assert most > 1.001
    alone = {row.name: row.predicted for row in plan(recipe(model, ratio=0.5)).linears}
    task = PlanTask.of(open_source(recipe(model, ratio=0.5), weights=False))
    workload = CostModel(card_of("a6000"), task.workload)
    assert not any(
        workload.total(times, "sparse") < workload.total(times, "dense") for times in alone.values()
    )
    for share in (0.3, 0.9, 0.999):
        asked = recipe(model, speedup=1 + share * (most - 1), **ONLY_TILES)
        planned = plan(asked)
        assert asked.speedup <= planned.whole.end_to_end.speedup <= most
        for seed in (0, 1):
            plans, found = build_for(asked, seed)
            assert found.speedup >= asked.speedup
            assert not any(one.lowering == "dense" and one.zeroed for one in plans.values())


@pytest.mark.parametrize("seed", range(3))
def test_builds_prune_what_plans_say(smollm2, seed):
    asked = recipe(smollm2, speedup=1.38, **PROMPTS)
    plans, found = build_for(asked, seed)
    assert found.speedup >= 1.38
    assert 0.6 < plan(asked).ratio / ratio_of(plans) < 1.3


@pytest.mark.parametrize(
    "settings",
    [
        {"speedup": 9},
        {"speedup": "0.1ms"},
        {"speedup": 9, "weights": "int8,w8a8"},
        {"speedup": 9, **ONLY_TILES},
    ],
    ids=str,
)
def test_the_named_speed_is_planned_and_built(smollm2, settings):
    asked = PROMPTS | settings
    with pytest.raises(SpeedError) as refusal:
        plan(recipe(smollm2, **asked))
    value, unit, which = re.search(r"`speedup` ([\d.]+)(ms)? or (less|more)", refusal.value.fix).groups()

    def of(value: float) -> Recipe:
        return recipe(smollm2, **asked | {"speedup": f"{value}{unit or ''}"})

    named = of(float(value))
    assert named.goal.met(plan(named).whole.end_to_end)
    assert named.goal.met(build_for(named)[1])
    beyond = float(value) * (1.01 if which == "less" else 0.99)
    with pytest.raises(SpeedError):
        plan(of(beyond))


@pytest.mark.parametrize(
    ("lowering", "paired"),
    [("auto", True), ("plugin", True), ("split", False), ("up_proj=split", False)],
)
def test_gate_and_up_are_paired_where_they_fuse(model, lowering, paired):
    task = PlanTask.of(open_source(recipe(model, ratio=0.3, lowering=lowering), weights=False))
    chooser = chooser_of(task, CostModel(card_of("a6000"), task.workload), str)
    chooser = with_pairs(chooser, task, lowering, str)
    pairs = [[name.rpartition(".")[2] for name in pair] for pair in chooser.pairs] if chooser else []
    assert pairs == [["gate_proj", "up_proj"]] * (4 * paired)
