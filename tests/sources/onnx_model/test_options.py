"""Settings that an ONNX file takes, and settings that are refused by name."""

import pytest
import torch

from patch_compile.recipe import Recipe
from patch_compile.sources.onnx_model.facts import effective_recipe
from tests.refusals import refused


def recipe(sixteen_bit=None, **settings):
    return effective_recipe(Recipe.parse({"model": "m.onnx", "ratio": 0.4} | settings), sixteen_bit)


def test_the_method_follows_from_the_inputs():
    assert recipe().method == "magnitude"
    assert recipe(calib="inputs.npz").method == "oneshot"
    assert recipe(calib="inputs.npz", method="wanda").method == "wanda"


def test_thread_counts_are_recorded_where_they_matter():
    assert recipe(calib="inputs.npz").threads == torch.get_num_threads()
    assert recipe(calib="inputs.npz", threads=7).threads == 7
    assert recipe().threads is None


@pytest.mark.parametrize("criterion", ["relative", "raw", "magnitude", "random"])
def test_a_criterion_that_needs_no_loss_is_taken(criterion):
    assert recipe(calib="inputs.npz", criterion=criterion).criterion == criterion


@pytest.mark.parametrize(("sixteen_bit", "expected"), [(None, "float16"), ("bfloat16", "bfloat16")])
def test_the_models_type_is_the_default(sixteen_bit, expected):
    assert recipe(sixteen_bit).dtype == expected
    assert recipe(sixteen_bit, dtype="float16").dtype == "float16"


@pytest.mark.parametrize(
    "settings",
    [
        {"windows": 8},
        {"eval_text": "text.txt"},
        {"opset": 20},
        {"repair": "distill"},
        {"permute": True},
        {"ratio": None, "mask": "masks.safetensors", "pruned": "pruned.onnx"},
        {"ratio": None, "speedup": 1.3},
        {"method": "patch-joint"},
        {"method": "patch-tile", "calib": "i.npz"},
        {"method": "wanda"},
        {"criterion": "fisher", "calib": "i.npz"},
        {"criterion": "raw", "calib": "i.npz", "method": "wanda"},
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings):
    with refused():
        recipe(**settings)


def test_a_saved_recipe_is_taken_again(tmp_path):
    """A saved recipe holds every setting; settings without a meaning have their defaults."""
    effective = recipe(calib="inputs.npz")
    effective.save(tmp_path / "recipe.yaml", ())
    again = effective_recipe(Recipe.parse(Recipe.load(tmp_path / "recipe.yaml")), "bfloat16")
    assert again.model_copy(update={"model": effective.model, "calib": effective.calib}) == effective
