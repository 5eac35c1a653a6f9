import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import masklearn
from masklearn.choice.goal import WEIGHTS, Goal
from masklearn.choice.losses import Losses
from masklearn.choice.price import Choice, InUnits, Types
from masklearn.choice.select import select
from masklearn.choice.solve import Chooser
from masklearn.learning import learn
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.models import load_model
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.recipe import LearnRecipe
from masklearn.text.calibrate import token_pool
from masklearn.traits import Criterion
from tests.conftest import ModelMaker
from tests.refusals import refused

METHODS = ["oneshot", "sparsegpt", "wanda", "magnitude"]


def recipe(text_file: Path, **settings: Any) -> LearnRecipe:
    given = {"tile": (32, 32), "calib": str(text_file), "windows": 4, "length": 16, "repair": "none"}
    return LearnRecipe(**(given | settings))


@pytest.mark.quick
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [0.0, 0.23, 0.4, 0.5])
def test_masks_meet_the_ratio_and_the_model(
    make_model, text_file: Path, tmp_path: Path, method: str, ratio: float
) -> None:
    path = make_model()
    masks = learn(path, recipe(text_file, method=method, ratio=ratio), tmp_path / "scratch").masks
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
        learn(path, recipe(text_file, seed=seed), tmp_path / f"s{name}").masks.save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1] != files[2]


def test_tiles_may_be_chosen_by_what_they_save(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    """Only the last block saves anything, in a unit of its own, and the recipe's ratio is ignored."""
    path = make_model()
    asked: dict[str, Any] = {}

    class OfTheLastBlock(InUnits):
        def fill(self, losses: Losses, types: Types, goal: Goal) -> Choice:
            assert list(losses.scores) == list(losses.areas) == list(covered_linears(path).linears)
            saves = {name: area * ("layers.2" in name) / 1000 for name, area in losses.areas.items()}
            asked.update(select(losses.scores, losses.areas, goal, saves))
            return Choice(select(losses.scores, losses.areas, goal, saves), goal, types)

    given = recipe(text_file, method="magnitude", ratio=0.5)
    choose = Chooser({}, OfTheLastBlock("µs"), Goal.saving(2.0, "µs"))
    masks = learn(path, given, tmp_path / "scratch", choose=choose).masks
    assert all(np.array_equal(mask.tiles, asked[name]) for name, mask in masks.items())
    assert {name.split(".")[2] for name, mask in masks.items() if mask.tiles.any()} == {"2"}
    assert (
        masks.ratio_asked
        == masks.ratio
        == pytest.approx(sum(m.zeroed for m in masks.values()) / masks.weights)
    )
    assert (masks.record.budget.amount, masks.record.budget.unit) == (2.0, "µs")


def test_masks_belong_to_their_model(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    learn(make_model(), recipe(text_file, method="magnitude"), tmp_path / "s").masks.save(tmp_path / "masks")
    other = make_model(num_hidden_layers=2)
    with refused():
        MaskSet.load(tmp_path / "masks").check_covers(covered_linears(other).linears)


def test_kinds_that_do_not_fit_are_said(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    given = recipe(text_file, method="magnitude", kinds="auto", repair="none")
    masks = learn(make_model(), given, tmp_path / "s", note=notes.append).masks
    assert any("auto leaves 8:16, 12:16 out in 21 of 21 linears" in note for note in notes)
    assert {kind.name for kind in masks.by_kind()} == {"dense", "2:4"}


def test_progress_ends_at_the_total(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    learn(make_model(), recipe(text_file), tmp_path / "s", progress=lambda *call: calls.append(call))
    for step in ("scoring", "sensitivity of the loss", "solving"):
        done = [done for what, done, _ in calls if what.startswith(step)]
        assert done == sorted(done)
        assert done[-1] == 21
    assert calls[-1][0].startswith("solving, output error 0.")


@pytest.mark.parametrize("method", METHODS)
def test_nan_is_named(make_model: ModelMaker, text_file: Path, tmp_path: Path, method: str) -> None:
    path = make_model()
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.2.mlp.gate_proj.weight"][0, 0] = math.nan
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with refused():
        learn(path, recipe(text_file, method=method), tmp_path / "s")


def test_infinite_activations_are_named(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    path = make_model()
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.1.post_attention_layernorm.weight"] *= 1e10
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e14
    tensors["model.layers.1.mlp.gate_proj.weight"] *= 1e14
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with refused():
        learn(path, recipe(text_file, method="sparsegpt"), tmp_path / "s")


def test_only_one_block_is_read_at_a_time(
    make_model, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are read once, in the order of the blocks, and the head is not read."""
    reads: list[str] = []
    read = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: (reads.append(name), read(self, name))[1])
    learn(make_model(shard="30KB"), recipe(text_file, method="wanda"), tmp_path / "s")
    assert reads[0] == "model.embed_tokens.weight"
    assert "lm_head.weight" not in reads
    assert len(set(reads)) == len(reads) == 1 + 3 * 9
    assert [int(name.split(".")[2]) for name in reads[1:]] == sorted([0, 1, 2] * 9)


def test_new_weights_are_solved_for_the_final_masks(make_model, text_file: Path, tmp_path: Path) -> None:
    """Only linears with a sparse tile change, the pruned model has exactly the masks' zeros, and it is closer to the
    dense model than the same masks on the dense weights."""
    path = make_model()
    learned = learn(path, recipe(text_file, ratio=0.3), tmp_path / "s")
    dense = Checkpoint.open(path)
    assert learned.checkpoint.new is not None
    for name, mask in learned.masks.items():
        old, new = dense.read(f"{name}.weight"), learned.checkpoint.read(f"{name}.weight")
        assert mask.tiles.any() != np.array_equal(old, new)
        assert not new[~mask.keep()].any()
    write_pruned_checkpoint(learned.checkpoint, learned.masks, tmp_path / "solved")
    write_pruned_checkpoint(dense, learned.masks, tmp_path / "masked")
    assert divergence(path, tmp_path / "solved", text_file) < 0.9 * divergence(
        path, tmp_path / "masked", text_file
    )


def divergence(dense: Path, pruned: Path, text_file: Path) -> float:
    """Mean squared difference of the logits on the calibration windows."""
    windows = torch.from_numpy(token_pool(Checkpoint.open(dense), recipe(text_file)).calibration())
    with torch.no_grad():
        logits = [load_model(path)(windows).logits for path in (dense, pruned)]
    return float((logits[0] - logits[1]).square().mean())


def test_an_included_head_is_ranked(make_model, text_file: Path, tmp_path: Path) -> None:
    """Its tiles are chosen by their scores among the tiles of all linears."""
    ranked: dict[str, Any] = {}

    class Ranked(InUnits):
        def fill(self, losses: Losses, types: Types, goal: Goal) -> Choice | None:
            ranked.update({name: losses.scores[name][TWO_FOUR] / area for name, area in losses.areas.items()})
            return super().fill(losses, types, goal)

    choose = Chooser({}, Ranked(WEIGHTS), Goal.of_ratio(0.4))
    given = recipe(text_file, include=("*",), ratio=0.4, tile=(8, 8))
    masks = learn(make_model(), given, tmp_path / "s", choose=choose).masks
    assert len(masks) == 22
    head, costs = masks["lm_head"], ranked["lm_head"]
    assert head.shape == (40, 48) and head.tiles.any() and not head.tiles.all()
    dearest = max(costs_of[masks[name].tiles].max(initial=0.0) for name, costs_of in ranked.items())
    assert costs[head.tiles].max() <= dearest <= costs[~head.tiles].min() + 1e-12


@pytest.mark.parametrize("criterion", list(Criterion))
def test_every_criterion_ranks_differently(make_model, text_file: Path, tmp_path: Path, criterion) -> None:
    path = make_model()
    masks = learn(path, recipe(text_file, criterion=criterion, tile=(8, 8)), tmp_path / "s").masks
    other = Criterion.RAW if criterion is Criterion.FISHER else Criterion.FISHER
    others = learn(path, recipe(text_file, criterion=other, tile=(8, 8)), tmp_path / "t").masks
    assert any(not np.array_equal(masks[name].tiles, others[name].tiles) for name in masks)


def test_fisher_ranks_tiles_by_lost_loss(make_model, text_file: Path, tmp_path: Path) -> None:
    """Tiles of a linear whose output is not used cost nothing and go first."""
    path = make_model()
    tensors = load_file(path / "model.safetensors")
    tensors[
        "model.layers.2.mlp.down_proj.weight"
    ].zero_()  # so that up and gate of the last block do not matter
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    masks = learn(path, recipe(text_file, ratio=0.25), tmp_path / "s").masks
    for kind in ("up_proj", "gate_proj", "down_proj"):
        assert masks[f"model.layers.2.mlp.{kind}"].tiles.all()


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_forced_ratios_skip_scoring(make_model, text_file, tmp_path, ratio) -> None:
    said: set[str] = set()
    settings = recipe(text_file, method="sparsegpt", ratio=ratio)
    masks = learn(make_model(), settings, tmp_path / "s", progress=lambda what, *_: said.add(what[:7])).masks
    assert masks.ratio == ratio
    assert "solving" in said and "scoring" not in said


def test_resumed_runs_repair_from_solved_weights(make_model, text_file, tmp_path: Path) -> None:
    """A run that is interrupted between its repair and writing its result gives the same weights when resumed."""
    path, settings = make_model(), recipe(text_file, repair="distill", repair_steps=3, batch=1)
    results = [learn(path, settings, tmp_path / "s").checkpoint for _ in range(2)]
    norm = "model.layers.0.input_layernorm.weight"
    assert not np.array_equal(results[0].read(norm), Checkpoint.open(path).read(norm))
    first = learn(path, settings, tmp_path / "t").checkpoint
    for name in first.names():
        assert np.array_equal(first.read(name), results[1].read(name)), name


def test_repair_is_recorded_and_keeps_the_masks(make_model, text_file: Path, tmp_path: Path) -> None:
    path = make_model()
    solved = learn(path, recipe(text_file), tmp_path / "s")
    budget = {"repair": "distill", "repair_steps": 40, "learning_rate": 3e-3}
    repaired = learn(path, recipe(text_file, **budget), tmp_path / "t")
    assert repaired.masks.record.repair.steps == 40
    assert repaired.masks.record.repair.kl_last < repaired.masks.record.repair.kl_first
    for name, mask in repaired.masks.items():
        assert np.array_equal(mask.keep(), solved.masks[name].keep())
        assert not repaired.checkpoint.read(f"{name}.weight")[~mask.keep()].any()
    assert repaired.masks.record.text.name == text_file.name


def test_repair_that_does_not_help_is_not_kept(make_model, text_file: Path, tmp_path: Path) -> None:
    """A learning rate of 1 ruins the model."""
    path, said = make_model(), list[str]()
    none = learn(path, recipe(text_file, repair="none"), tmp_path / "n")
    ruined = recipe(text_file, repair="distill", repair_steps=4, learning_rate=1.0)
    kept = learn(path, ruined, tmp_path / "r", note=said.append)
    record = kept.masks.record.repair
    assert not record.kept and record.kl_last > record.kl_first
    assert any(
        line.startswith("repair: ") and line.endswith("the weights stay as they were") for line in said
    )
    for name in kept.masks:
        weight = f"{name}.weight"
        assert np.array_equal(kept.checkpoint.read(weight), none.checkpoint.read(weight))


@pytest.mark.model
def test_sample_model(sample_model: Path, sample_texts: Path, tmp_path: Path) -> None:
    """The real model has ragged tiles: hidden size 576 is 4.5 x 128."""
    calib = str(sample_texts / "calib.txt")
    recipe = LearnRecipe(method="wanda", calib=calib, windows=4, length=128, ratio=0.4)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    masks = learn(sample_model, recipe, tmp_path).masks
    assert len(masks) == 210
    assert masks["model.layers.7.self_attn.q_proj"].tiles.shape == (5, 5)
    assert abs(masks.ratio - 0.4) * masks.weights < 128 * 128


def test_the_example_of_the_package_runs(
    make_model: ModelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert masklearn.__doc__
    _, _, rest = masklearn.__doc__.partition("\n\n")
    code, _, _ = rest.partition("\n\nImporting")
    code = textwrap.dedent(code).replace("models/smollm2-135m", str(make_model()))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert MaskSet.load(tmp_path / "masks.safetensors").ratio == pytest.approx(0.4, abs=0.01)


def test_small_calibrations_are_named_before_work(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    """The linears of the model have up to 64 inputs."""
    path, said = make_model(), list[str]()

    def note(line: str) -> None:
        said.append(line)
        assert not any((tmp_path / name / "scores").exists() for name in ("few", "enough", "unread"))

    learn(path, recipe(text_file, windows=2), tmp_path / "few", note=note)
    widest = max(columns for _, columns in covered_linears(path).linears.values())
    assert [f"32 tokens, {32 / widest:.1f} for each input" in line for line in said] == [True]
    said.clear()
    learn(path, recipe(text_file, windows=2 * widest // 16), tmp_path / "enough", note=said.append)
    learn(path, recipe(text_file, windows=2, method="wanda"), tmp_path / "unread", note=said.append)
    assert said == []
