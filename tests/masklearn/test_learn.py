import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import masklearn
from masklearn.choice.goal import WEIGHTS, Goal
from masklearn.choice.losses import Losses
from masklearn.choice.price import Choice, InUnits, Types
from masklearn.choice.select import select
from masklearn.choice.solve import Chooser
from masklearn.learning import Learned
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.models import load_model
from masklearn.text.calibrate import token_pool
from masklearn.traits import Criterion
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny
from tests.masklearn.edits import edited_weights
from tests.refusals import refused

SETTINGS = {"tile": (32, 32)}
METHODS = ["oneshot", "sparsegpt", "wanda", "magnitude"]


@pytest.mark.quick
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [0.0, 0.23, 0.4, 0.5])
def test_masks_meet_the_ratio_and_the_model(make_model, tiny: Tiny, method: str, ratio: float) -> None:
    path = make_model()
    masks = tiny.learn(path, method=method, ratio=ratio).masks
    masks.check_covers(covered_linears(path).linears)
    assert abs(masks.ratio - ratio) * masks.weights < 32 * 32
    assert ratio not in (0.0, 0.5) or masks.ratio == ratio
    assert sum(int((~mask.keep()).sum()) for mask in masks.values()) == masks.zeroed
    assert (masks.method, masks.base_model) == (method, path.name)
    assert masks.base_sha256 == Checkpoint.open(path).fingerprint()


def test_tiles_may_be_chosen_by_what_they_save(make_model: ModelMaker, tiny: Tiny) -> None:
    """Only the last block saves anything, in a unit of its own, and the recipe's ratio is ignored."""
    path = make_model()
    asked: dict[str, Any] = {}

    class OfTheLastBlock(InUnits):
        def fill(self, losses: Losses, types: Types, goal: Goal) -> Choice:
            assert list(losses.scores) == list(losses.areas) == list(covered_linears(path).linears)
            saves = {name: area * ("layers.2" in name) / 1000 for name, area in losses.areas.items()}
            asked.update(select(losses.scores, losses.areas, goal, saves))
            return Choice(select(losses.scores, losses.areas, goal, saves), goal, types)

    choose = Chooser({}, OfTheLastBlock("µs"), Goal.saving(2.0, "µs"))
    masks = tiny.learn(path, method="magnitude", ratio=0.5, choose=choose).masks
    assert all(np.array_equal(mask.tiles, asked[name]) for name, mask in masks.items())
    assert {name.split(".")[2] for name, mask in masks.items() if mask.tiles.any()} == {"2"}
    assert (
        masks.ratio_asked
        == masks.ratio
        == pytest.approx(sum(m.zeroed for m in masks.values()) / masks.weights)
    )
    choice = masks.record.choice
    assert (
        (choice.asked, choice.unit) == (2.0, "µs") and choice.reached >= 2.0 and choice.bound <= choice.loss
    )


def test_kinds_that_do_not_fit_are_said(make_model: ModelMaker, tiny: Tiny) -> None:
    notes: list[str] = []
    masks = tiny.learn(make_model(), method="magnitude", kinds="auto", note=notes.append).masks
    assert any("auto leaves 8:16, 12:16 out in 21 of 21 linears" in note for note in notes)
    assert {kind.name for kind in masks.by_kind()} == {"dense", "2:4"}


def test_progress_ends_at_the_total(make_model: ModelMaker, tiny: Tiny) -> None:
    calls: list[tuple[str, int, int]] = []
    tiny.learn(make_model(), "s", progress=lambda *call: calls.append(call))
    for step in ("scoring", "sensitivity of the loss", "solving"):
        done = [done for what, done, _ in calls if what.startswith(step)]
        assert done == sorted(done)
        assert done[-1] == 21
    assert calls[-1][0].startswith("solving, output error 0.")


@pytest.mark.parametrize("method", METHODS)
def test_nan_is_named(make_model: ModelMaker, tiny: Tiny, method: str) -> None:
    path = make_model()
    with edited_weights(path) as tensors:
        tensors["model.layers.2.mlp.gate_proj.weight"][0, 0] = math.nan
    with refused():
        tiny.learn(path, "s", method=method)


def test_only_one_block_is_read_at_a_time(make_model, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are read once, in the order of the blocks, and the head is not read."""
    reads: list[str] = []
    read = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: (reads.append(name), read(self, name))[1])
    tiny.learn(make_model(shard="30KB"), "s", method="wanda")
    assert reads[0] == "model.embed_tokens.weight"
    assert "lm_head.weight" not in reads
    assert len(set(reads)) == len(reads) == 1 + 3 * 9
    assert [int(name.split(".")[2]) for name in reads[1:]] == sorted([0, 1, 2] * 9)


def test_new_weights_are_solved_for_the_final_masks(make_model, tiny: Tiny) -> None:
    """Only linears with a sparse tile change, the pruned model has exactly the masks' zeros, and it is closer to the
    dense model than the same masks on the dense weights."""
    path = make_model()
    learned = tiny.learn(path, "s", ratio=0.3)
    dense = Checkpoint.open(path)
    assert learned.checkpoint.new is not None
    for name, mask in learned.masks.items():
        old, new = dense.read(f"{name}.weight"), learned.checkpoint.read(f"{name}.weight")
        assert mask.tiles.any() != np.array_equal(old, new)
        assert not new[~mask.keep()].any()
    windows = torch.from_numpy(token_pool(dense, tiny.recipe()).calibration())
    solved = tiny.prune(learned, "solved").path
    masked = tiny.prune(Learned(learned.masks, dense), "masked").path
    with torch.no_grad():
        expected, solved, masked = (load_model(folder)(windows).logits for folder in (path, solved, masked))
    assert (solved - expected).square().mean() < 0.9 * (masked - expected).square().mean()


def test_an_included_head_is_ranked(make_model, tiny: Tiny) -> None:
    """Its tiles are chosen by their scores among the tiles of all linears."""
    ranked: dict[str, Any] = {}

    class Ranked(InUnits):
        def fill(self, losses: Losses, types: Types, goal: Goal) -> Choice | None:
            ranked.update({name: losses.scores[name][TWO_FOUR] / area for name, area in losses.areas.items()})
            return super().fill(losses, types, goal)

    choose = Chooser({}, Ranked(WEIGHTS), Goal.of_ratio(0.4))
    masks = tiny.learn(make_model(), include=("*",), ratio=0.4, tile=(8, 8), choose=choose).masks
    assert len(masks) == 22
    head, costs = masks["lm_head"], ranked["lm_head"]
    assert head.shape == (40, 48) and head.tiles.any() and not head.tiles.all()
    dearest = max(costs_of[masks[name].tiles].max(initial=0.0) for name, costs_of in ranked.items())
    assert costs[head.tiles].max() <= dearest <= costs[~head.tiles].min() + 1e-12


@pytest.mark.parametrize("criterion", list(Criterion))
def test_every_criterion_ranks_differently(make_model, tiny: Tiny, criterion) -> None:
    path = make_model()
    masks = tiny.learn(path, "s", criterion=criterion, tile=(8, 8)).masks
    other = Criterion.RAW if criterion is Criterion.FISHER else Criterion.FISHER
    others = tiny.learn(path, "t", criterion=other, tile=(8, 8)).masks
    assert any(not np.array_equal(masks[name].tiles, others[name].tiles) for name in masks)


def test_fisher_ranks_tiles_by_lost_loss(make_model, tiny: Tiny) -> None:
    """Tiles of a linear whose output is not used, as of up and gate without down, cost nothing and go first."""
    path = make_model()
    with edited_weights(path) as tensors:
        tensors["model.layers.2.mlp.down_proj.weight"].zero_()
    masks = tiny.learn(path, "s", ratio=0.25).masks
    for kind in ("up_proj", "gate_proj", "down_proj"):
        assert masks[f"model.layers.2.mlp.{kind}"].tiles.all()


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_forced_ratios_skip_scoring(make_model, tiny: Tiny, ratio) -> None:
    said: set[str] = set()
    settings = {"method": "sparsegpt", "ratio": ratio}
    learned = tiny.learn(make_model(), progress=lambda what, *_: said.add(what[:7]), **settings)
    assert learned.masks.ratio == ratio
    assert "solving" in said and "scoring" not in said


def test_resumed_runs_repair_from_solved_weights(make_model, tiny: Tiny) -> None:
    """A run that is interrupted between its repair and writing its result gives the same weights when resumed."""
    path, settings = make_model(), {"repair": "distill", "repair_steps": 3, "batch": 1}
    results = [tiny.learn(path, "s", **settings).checkpoint for _ in range(2)]
    norm = "model.layers.0.input_layernorm.weight"
    assert not np.array_equal(results[0].read(norm), Checkpoint.open(path).read(norm))
    first = tiny.learn(path, "t", **settings).checkpoint
    for name in first.names():
        assert np.array_equal(first.read(name), results[1].read(name)), name


def test_repair_that_does_not_help_is_not_kept(make_model, tiny: Tiny) -> None:
    """A learning rate of 1 ruins the model."""
    path, said = make_model(), list[str]()
    none = tiny.learn(path, "n")
    ruined = {"repair": "distill", "repair_steps": 4, "learning_rate": 1.0}
    kept = tiny.learn(path, "r", note=said.append, **ruined)
    record = kept.masks.record.repair
    assert not record.kept and record.kl_last > record.kl_first
    assert any(
        line.startswith("repair: ") and line.endswith("the weights stay as they were") for line in said
    )
    for name in kept.masks:
        weight = f"{name}.weight"
        assert np.array_equal(kept.checkpoint.read(weight), none.checkpoint.read(weight))


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


def test_small_calibrations_are_named_before_work(make_model: ModelMaker, tiny: Tiny) -> None:
    """The linears of the model have up to 64 inputs."""
    path, said = make_model(), list[str]()

    def note(line: str) -> None:
        said.append(line)
        assert not any((tiny.folder / name / "scores").exists() for name in ("few", "enough", "unread"))

    tiny.learn(path, "few", windows=2, note=note)
    widest = max(columns for _, columns in covered_linears(path).linears.values())
    assert [f"32 tokens, {32 / widest:.1f} for each input" in line for line in said] == [True]
    said.clear()
    tiny.learn(path, "enough", windows=2 * widest // 16, note=said.append)
    tiny.learn(path, "unread", windows=2, method="wanda", note=said.append)
    assert said == []


NARROW = {"intermediate_size": 96}


@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        ({}, {"kinds": "6:8"}),
        ({}, {"kinds": "6:8", "weights": "int8"}),
        ({}, {"kinds": "6:8", "weights": "w8a8,v_proj=int4"}),
        ({}, {"kinds": "12:16", "ratio": 0.3}),
        ({}, {"kinds": "12:16", "bytes_per_weight": 1.6}),
        ({}, {"method": "patch-tile", "bytes_per_weight": 1.6}),
        (NARROW, {"kinds": "8:16", "ratio": 0.3}),
        (NARROW, {"weights": "int4"}),
        (NARROW, {"weights": "fc1=int8"}),
        ({}, {"weights": "auto", "ratio": 0.3}),
        ({}, {"weights": "auto", "bytes_per_weight": 0.9, "method": "wanda"}),
        ({}, {"weights": "auto", "bytes_per_weight": 0.9, "criterion": "random"}),
        ({}, {"weights": "auto", "bytes_per_weight": 0.3}),
    ],
)
def test_goals_out_of_reach_are_refused_before_work(
    make_model: ModelMaker, tiny: Tiny, sizes: dict[str, Any], settings: dict[str, Any]
) -> None:
    path = make_model(**{"hidden_size": 64, "intermediate_size": 128} | sizes)
    with refused():
        tiny.learn(path, "s", **{"tile": (32, 64)} | settings)
    assert not (tiny.folder / "s").exists()
