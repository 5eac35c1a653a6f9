"""A build chooses what is left out: kinds of tiles for a ratio; for a speed also their size, and types of weights."""

import json
from pathlib import Path

import pytest
import yaml

from masklearn.masks.tiles import WHOLE, spell_tile
from patch_compile.errors import SpeedError
from patch_compile.pipeline.choose import settle_open
from patch_compile.pipeline.plan import plan
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.recipe import Recipe
from patch_compile.sources.open import open_source
from patch_compile.sources.plan_task import PlanTask
from tests.planning.llama import LLAMA_2_7B

# Prompts, and decode steps of one sequence: the products of the first are bound by tensor cores, of the second by bytes.
PROMPTS = {"batch_size": 1, "prompt_tokens": 2048, "generated_tokens": 1}
STEPS = {"batch_size": 1, "prompt_tokens": 16, "generated_tokens": 128}
BERT = Path(__file__).parents[2] / "samples/configs/bert-base"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(LLAMA_2_7B | {"num_hidden_layers": 2}))
    return folder


def recipe(model, **settings):
    return Recipe.parse({"model": model, "target": "a6000", **settings})


def settled(asked):
    task = PlanTask.of(open_source(asked, weights=False))
    return settle_open(task, CostModel(card_of(asked.target), task.workload))


def choices(asked):
    return asked.kinds, asked.weights, asked.tile


def test_a_speed_opens_what_is_left_out(model):
    for goal in ({"speedup": 1.5}, {"speedup": "5ms"}):
        assert choices(recipe(model, **goal)) == ("auto", "auto", None)
    given = {"kinds": "2:4", "weights": "int8", "tile": "64x128"}
    assert choices(recipe(model, speedup=1.5, **given)) == ("2:4", "int8", (64, 128))


def test_a_ratio_opens_no_choice(model):
    for amount in ({"ratio": 0.4}, {"mask": "masks.safetensors"}):
        assert choices(recipe(model, **amount)) == ("2:4", None, (128, 128))
    assert recipe(model, ratio=0.4, tile="auto").tile == (128, 128)
    assert recipe(model, ratio=0.4, tile="auto", lowering="split").tile == (128, WHOLE)


def test_bytes_take_all_kinds_of_tiles(model):
    assert choices(recipe(model, bytes_per_weight=1.4)) == ("auto", None, (128, 128))
    assert recipe(model, bytes_per_weight=1.4, kinds="2:4").kinds == "2:4"
    assert recipe(model, bytes_per_weight=1.4, method="patch-tile").kinds == "2:4"  # trains tiles of 2:4 only


def test_a_ratio_takes_kinds_by_the_workload(model):
    for workload, kinds, other in ((STEPS, "auto", "2:4"), (PROMPTS, "2:4", "auto")):
        found = settled(recipe(model, ratio=0.4, **workload))
        chosen, left = found.tried
        assert found.task.recipe.kinds == chosen.value == kinds and left.value == other
        speeds = [
            plan(recipe(model, ratio=0.4, kinds=one, **workload)).whole.end_to_end.speedup
            for one in (kinds, other)
        ]
        assert speeds == [chosen.figure, left.figure]
        planned = plan(recipe(model, ratio=0.4, **workload))
        assert planned.kinds == kinds and planned.whole.end_to_end.speedup == chosen.figure


def test_w8a8_takes_six_eight_where_it_saves(model):
    """What w8a8 saves over 16 bits does not count."""
    found = {
        name: settled(recipe(model, ratio=0.1, weights="w8a8", target="a100-80", **load)).tried
        for name, load in {"prompts": PROMPTS, "steps": STEPS}.items()
    }
    assert {name: tried[0].value for name, tried in found.items()} == {"prompts": "auto", "steps": "2:4"}


def test_saved_ratios_keep_their_kinds(model, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(
        yaml.safe_dump({"model": str(model), "ratio": 0.4, "kinds": "2:4", "tile": [128, 128], **STEPS})
    )
    assert not settled(Recipe.parse(Recipe.load(file) | {"target": "a6000"})).tried
    task = settled(recipe(model, ratio=0.4, **STEPS)).task
    task.recipe.save(file, texts=())
    again = settled(Recipe.parse(Recipe.load(file)))
    assert again.task.recipe.kinds == "auto" and not again.tried


@pytest.mark.parametrize(
    ("changed", "permutes"),
    [
        ({"ratio": 0.4}, True),
        ({"ratio": 0.4, "permute": False}, False),
        ({"ratio": 0.4, "weights": "w8a8"}, True),
        ({"ratio": 0.4, "method": "sparsegpt"}, False),
        ({"ratio": 0.4, "tile": "128x*"}, False),
        ({"speedup": 1.8, "weights": "float16,w8a8,int4"}, False),
        ({"speedup": 1.8, "weights": "float16,w8a8"}, True),
        ({"mask": "masks.safetensors"}, False),
    ],
)
def test_decoders_are_permuted_by_default(model, changed, permutes):
    assert settled(recipe(model, **changed, **PROMPTS)).task.recipe.permute is permutes


def test_encoders_are_not_permuted_by_default():
    assert not settled(recipe(BERT, ratio=0.4)).task.recipe.permute


def test_methods_without_rounding_keep_their_types(model):
    assert choices(recipe(model, speedup=1.1, method="magnitude")) == ("auto", None, None)


def test_saved_recipes_hold_what_was_settled(model, tmp_path):
    task = settled(recipe(model, speedup=1.8, dtype="bfloat16", **PROMPTS)).task
    assert task.recipe.weights == "bfloat16,w8a8"
    task.recipe.save(tmp_path / "recipe.yaml", texts=())
    again = Recipe.parse(Recipe.load(tmp_path / "recipe.yaml"))
    assert choices(again) == choices(task.recipe) and again.tile is not None


def test_only_types_that_save_time_are_offered(model):
    """In prompts, int8 and int4 save nothing over 16 bits; in steps of one sequence, w8a8 saves no more than int8."""
    prompts = settled(recipe(model, speedup=1.8, **PROMPTS)).task
    assert choices(prompts.recipe)[:2] == ("2:4", "float16,w8a8")
    steps = settled(recipe(model, speedup=1.8, **STEPS)).task
    assert choices(steps.recipe)[:2] == ("auto", "float16,int8,int4")


def test_the_tile_needs_the_fewest_zeros(model):
    asked = recipe(model, speedup=1.8, **PROMPTS)
    found = settled(asked)
    tiles = [tried.value for tried in found.tried]
    assert spell_tile(found.task.recipe.tile) == tiles[0] != tiles[1]
    ratios = [plan(recipe(model, speedup=1.8, tile=tile, **PROMPTS)).ratio for tile in tiles]
    assert ratios == pytest.approx([tried.figure for tried in found.tried]) and ratios[0] <= ratios[1]


def test_a_refused_speed_names_the_fastest_tile():
    encoder = {"model": BERT, "target": "a100-40", "batch_size": 64, "speedup": 9}

    def fastest(**tile):
        with pytest.raises(SpeedError) as found:
            plan(Recipe.parse(encoder | tile))
        return found.value.fastest

    of_tiles = [fastest(tile=(rows, rows)) for rows in (128, 64)]
    assert fastest() == min(of_tiles) < max(of_tiles)


def test_named_kinds_are_kept(model):
    for kinds in ("2:4", "auto"):
        for workload in (STEPS, PROMPTS):
            found = settled(recipe(model, ratio=0.4, kinds=kinds, **workload))
            assert found.task.recipe.kinds == kinds and not found.tried


def test_recipes_of_earlier_builds_keep_their_types(model, tmp_path):
    file = tmp_path / "recipe.yaml"
    written = {"model": str(model), "speedup": 1.3, "kinds": "2:4", "tile": [128, 128]}
    file.write_text(yaml.safe_dump(written))
    assert choices(Recipe.parse(Recipe.load(file))) == ("2:4", None, (128, 128))
    file.write_text(yaml.safe_dump({"model": str(model), "speedup": 1.3}))
    assert choices(Recipe.parse(Recipe.load(file))) == ("auto", "auto", None)
