from pathlib import Path

import pytest
import torch
import yaml

from masklearn.learning import LearnRecipe
from patch_compile.pipeline.prepare import prepare
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Stage
from tests.refusals import refused


def test_learning_settings_are_those_of_masklearn():
    assert set(LearnRecipe.model_fields) <= set(Recipe.model_fields)


def test_a_saved_recipe_gives_the_same_settings(tmp_path):
    recipe = Recipe.parse(
        {"model": tmp_path, "ratio": 0.3, "tile": (64, 64), "include": ("*mlp*",), "out": "x"}
    )
    recipe.save(tmp_path / "recipe.yaml")
    again = Recipe.parse(Recipe.load(tmp_path / "recipe.yaml"))
    assert again == recipe.model_copy(update={"out": None, "threads": again.threads})


@pytest.mark.parametrize(
    ("bf16", "method", "length", "threads", "depends"),
    [
        (True, "oneshot", 512, 2, True),
        (True, "wanda", 512, 2, False),
        (False, "oneshot", 512, 2, False),
        (False, "oneshot", 1024, 8, False),
        (False, "oneshot", 512, 5, True),
        (False, "wanda", 512, 6, True),
        (False, "oneshot", 300, 2, True),
        (False, "magnitude", 300, 5, False),
    ],
)
def test_thread_counts_are_recorded_where_they_matter(
    tmp_path, monkeypatch, bf16, method, length, threads, depends
):
    monkeypatch.setattr("masklearn.model.modules.computes_in_bf16", lambda *_: bf16)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    settings = {"model": tmp_path, "ratio": 0.3, "device": "cpu", "method": method, "length": length}
    recipe = Recipe.parse(settings | {"repair": "none"})
    recipe.save(tmp_path / "recipe.yaml")
    recorded = Recipe.load(tmp_path / "recipe.yaml").get("threads")
    assert recorded == (threads if depends else None)
    Recipe.parse(Recipe.load(tmp_path / "recipe.yaml")).save(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "recipe.yaml").read_bytes()
    recipe.model_copy(update={"threads": 7}).save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml")["threads"] == 7


def test_saved_paths_ignore_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Recipe.parse({"model": Path("m"), "ratio": 0.3}).save(tmp_path / "recipe.yaml")
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["model"] == str(tmp_path / "m")


@pytest.mark.parametrize(
    "settings",
    [
        {"ratio": 0.2, "colour": "red"},
        {"ratio": 0.2, "windows": 2**63},
        {"ratio": 0.2, "threads": 10**9},
    ],
)
def test_wrong_settings_are_named(settings):
    with refused():
        Recipe.parse({"model": "m", **settings})


@pytest.mark.parametrize(
    "text",
    [
        "- a list",
        "{",
        "",
        "1: a",
        pytest.param("[" * 5000, id="nested"),
        "a: 2024-13-99",
        'a: "\\Uffffffff"',
        pytest.param("a: \udcff", id="is not YAML"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8", errors="surrogateescape")
    with refused():
        Recipe.load(tmp_path / "r.yaml")


def test_the_recipe_of_a_build_writes_nowhere_else(tmp_path):
    """OUT may be somebody else's, and `bench` builds engines with its settings."""
    settings = {"model": "m", "ratio": 0.3, "timing_cache": "/home/me/.bashrc"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    assert Recipe.of_build(tmp_path).timing_cache is None


def test_broken_build_recipes_are_no_usage_error(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": "m", "ratio": 9}))
    with refused():
        Recipe.of_build(tmp_path)


def test_a_huge_recipe_is_not_read(tmp_path):
    (tmp_path / "recipe.yaml").write_text("a: " + "x" * (1 << 20))
    with refused():
        Recipe.load(tmp_path / "recipe.yaml")


def test_unplannable_options_are_refused_early(tmp_path):
    settings = {"model": tmp_path / "nowhere", "out": tmp_path / "out", "bytes_per_weight": 1.4}
    recipe = Recipe.parse(settings)
    for job in (recipe, recipe.model_copy(update={"target": "a6000"})):
        stages = [Stage.MASKS, Stage.ONNX] if job.target is None else [Stage.MASKS]
        with refused():
            prepare(job, Progress(), stages=stages, force=False, resume=False)


@pytest.mark.parametrize("threads", [2, 4, 8, 16])
def test_torch_splits_silu_evenly_over_threads(threads):
    """`Recipe` records no threads for this reason. With 5 or 7 threads torch 2.13's results differ."""
    x, before = torch.linspace(-9, 9, 512 * 1536), torch.get_num_threads()
    found = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            found.append(torch.nn.functional.silu(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
