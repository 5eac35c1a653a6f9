import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from masklearn.checkpoint import Checkpoint
from masklearn.coverage import covered_linears
from masklearn.errors import PatchCompileError
from masklearn.learn import learn
from masklearn.maskset import MaskSet
from masklearn.recipe import LearnRecipe
from tests.conftest import ModelMaker


def recipe(text_file: Path, **settings: Any) -> LearnRecipe:
    return LearnRecipe(**({"tile": (32, 32), "calib": text_file, "windows": 4, "length": 16} | settings))


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
@pytest.mark.parametrize("ratio", [0.0, 0.23, 0.4, 0.5])
def test_masks_meet_the_ratio_and_the_model(make_model, text_file: Path, method: str, ratio: float) -> None:
    path = make_model()
    masks = learn(path, recipe(text_file, method=method, ratio=ratio))
    masks.check_covers(covered_linears(path).linears)
    assert abs(masks.ratio - ratio) * masks.weights < 32 * 32
    assert ratio not in (0.0, 0.5) or masks.ratio == ratio
    assert sum(int((~mask.keep()).sum()) for mask in masks.values()) == masks.zeroed
    assert (masks.method, masks.base_model) == (method, path.name)
    assert masks.base_sha256 == Checkpoint.open(path).fingerprint()


def test_same_recipe_same_file(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    path = make_model()
    files = []
    for name, seed in (("1", 0), ("2", 0), ("3", 7)):
        learn(path, recipe(text_file, seed=seed)).save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1] != files[2]


def test_masks_belong_to_their_model(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    learn(make_model(), recipe(text_file, method="magnitude")).save(tmp_path / "masks")
    other = make_model(num_hidden_layers=2)
    with pytest.raises(
        PatchCompileError, match=r"another model.*model\.layers\.2\.mlp\.down_proj is not a covered"
    ):
        MaskSet.load(tmp_path / "masks").check_covers(covered_linears(other).linears)


def test_progress_ends_at_the_total(make_model: ModelMaker, text_file: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    learn(make_model(), recipe(text_file), progress=lambda *call: calls.append(call))
    done = [done for what, done, _ in calls if what == "scoring"]
    assert done == sorted(done)
    assert calls[-1] == ("scoring", 21, 21)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_nan_is_named(make_model: ModelMaker, text_file: Path, method: str) -> None:
    path = make_model()
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.2.mlp.gate_proj.weight"][0, 0] = math.nan
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(PatchCompileError, match=r"model.layers.2.mlp.gate_proj.weight holds NaN"):
        learn(path, recipe(text_file, method=method))


def test_only_one_block_is_read_at_a_time(
    make_model, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are read in the order of the blocks, each once, and the head is not read at all."""
    reads: list[str] = []
    read = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: (reads.append(name), read(self, name))[1])
    learn(make_model(shard="30KB"), recipe(text_file))
    assert reads[0] == "model.embed_tokens.weight"
    assert "lm_head.weight" not in reads
    assert len(set(reads)) == len(reads) == 1 + 3 * 9
    assert [int(name.split(".")[2]) for name in reads[1:]] == sorted([0, 1, 2] * 9)


@pytest.mark.model
def test_sample_model(sample_model: Path, sample_texts: Path) -> None:
    """The real model, ragged tiles: hidden 576 is 4.5 x 128."""
    recipe = LearnRecipe(calib=sample_texts / "calib.txt", windows=4, length=128, ratio=0.4)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    masks = learn(sample_model, recipe)
    assert len(masks) == 210
    assert masks["model.layers.7.self_attn.q_proj"].tiles.shape == (5, 5)
    assert abs(masks.ratio - 0.4) * masks.weights < 128 * 128
