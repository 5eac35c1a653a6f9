"""Learning with other kinds of tiles than 2:4, from the weights of a model to its pruned checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.learning import Learned, learn
from masklearn.masks.kinds.table import BY_CODE, PRUNED
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.recipe import LearnRecipe
from tests.conftest import ModelMaker
from tests.refusals import refused

SIZES = {"hidden_size": 64, "intermediate_size": 128}


def recipe(text_file: Path, **settings: Any) -> LearnRecipe:
    given = {"tile": (32, 64), "calib": str(text_file), "windows": 4, "length": 16, "repair": "none"}
    return LearnRecipe.parse(given | settings)


def check(learned: Learned, folder: Path) -> None:
    """Every tile of the pruned model keeps as many weights as its kind says, and the set survives its file."""
    masks = learned.masks
    write_pruned_checkpoint(learned.checkpoint, masks, folder / "model")
    pruned = Checkpoint.open(folder / "model")
    masks.save(folder / "masks")
    loaded = MaskSet.load(folder / "masks")
    for name, mask in masks.items():
        keep, kept = mask.keep(), pruned.read(f"{name}.weight") != 0
        np.testing.assert_array_equal(loaded[name].keep(), keep)
        # Integers round small weights to 0.
        assert not (kept & ~keep).any() if name in masks.grids else (kept == keep).all()
        for i, j in np.ndindex(mask.kinds.shape):
            kind = BY_CODE[int(mask.kinds[i, j])]
            tile = keep[32 * i : 32 * i + 32, 64 * j : 64 * j + 64]
            if kind.family is not None:
                assert (kind.family.groups(tile).sum(-1) == kind.kept).all()
    assert masks.zeroed == sum(int((~mask.keep()).sum()) for mask in masks.values())


@pytest.mark.parametrize("method", ["oneshot", "sparsegpt", "wanda", "magnitude"])
def test_every_method_mixes_kinds(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, method: str
) -> None:
    settings = {"method": method, "kinds": "auto", "ratio": 0.35, "criterion": None}
    learned = learn(make_model(**SIZES), recipe(text_file, **settings), tmp_path / "s")
    check(learned, tmp_path)
    assert abs(learned.masks.ratio - 0.35) * learned.masks.weights < 32 * 64 / 2
    assert len(learned.masks.by_kind()) >= 2


def test_one_kind_everywhere_needs_no_scores(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    """Repair keeps pruned weights at 0."""
    settings = {"kinds": "12:16", "ratio": 0.25, "repair": "distill", "repair_steps": 2}
    learned = learn(make_model(**SIZES), recipe(text_file, **settings), tmp_path / "s")
    check(learned, tmp_path)
    assert [kind.name for kind in learned.masks.by_kind()] == ["12:16"]
    assert (learned.masks.ratio, learned.masks.bytes_per_weight) == (0.25, 1.625)
    assert learned.masks.record.repair is not None
    assert learned.masks.record.repair.steps == 2
    assert not (tmp_path / "s" / "scores").exists()


def test_permuted_with_kinds_by_pattern(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    settings = {"kinds": "mlp.*=8:16,12:16,q_proj=2:4", "ratio": 0.3, "permute": True}
    learned = learn(make_model(**SIZES), recipe(text_file, **settings), tmp_path / "s")
    check(learned, tmp_path)
    for name, mask in learned.masks.items():
        kinds = {kind.name for kind in mask.by_kind()} - {"dense"}
        assert kinds <= ({"8:16", "12:16"} if ".mlp." in name else {"2:4"}), name
    assert learned.masks.orders


@pytest.mark.parametrize("kinds", ["auto", "2:4"])
def test_bytes_are_not_exceeded(make_model: ModelMaker, text_file: Path, tmp_path: Path, kinds: str) -> None:
    settings = {"method": "magnitude", "kinds": kinds, "bytes_per_weight": 1.4}
    learned = learn(make_model(**SIZES), recipe(text_file, **settings), tmp_path / "s")
    masks = learned.masks
    assert 1.4 - 0.875 * 32 * 64 / masks.weights < masks.bytes_per_weight <= 1.4
    assert masks.record.budget is not None
    assert masks.record.budget.unit == "bytes"
    assert masks.ratio_asked == masks.ratio


@pytest.mark.parametrize("method", ["oneshot", "sparsegpt", "wanda", "magnitude"])
def test_every_method_prunes_6_8(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, method: str
) -> None:
    settings = {"method": method, "kinds": "auto", "ratio": 0.3, "criterion": None, "weights": "w8a8"}
    learned = learn(make_model(**SIZES), recipe(text_file, **settings), tmp_path / "s")
    check(learned, tmp_path)
    assert [kind.name for kind in learned.masks.by_kind()] in (["dense", "2:4", "6:8"], ["2:4", "6:8"])


def test_repaired_weights_keep_6_8(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    """They are repaired in 16 bits, with which no kernel multiplies such tiles."""
    settings = {"repair": "distill", "repair_steps": 2, "weights": "w8a8,v_proj=int8", "ratio": 0.2}
    kinds = "2:4,6:8,v_proj=2:4,8:16"
    learned = learn(make_model(**SIZES), recipe(text_file, kinds=kinds, **settings), tmp_path / "s")
    check(learned, tmp_path)
    for name, mask in learned.masks.items():
        allowed = {"2:4", "8:16"} if name.endswith("v_proj") else {"2:4", "6:8"}
        assert {kind.name for kind in mask.by_kind()} <= {"dense", *allowed}


def test_6_8_in_16_bits_is_refused_before_work(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    for weights in (None, "int8", "w8a8,v_proj=int4"):
        with refused():
            learn(make_model(**SIZES), recipe(text_file, kinds="6:8", weights=weights), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_unreachable_goals_are_refused_before_work(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    path = make_model(**SIZES)
    for settings in (
        {"kinds": "12:16", "ratio": 0.3},
        {"kinds": "12:16", "bytes_per_weight": 1.6},
        {"method": "patch-tile", "bytes_per_weight": 1.6},
    ):
        with refused():
            learn(path, recipe(text_file, **settings), tmp_path / "s")
    with refused():
        learn(make_model(), recipe(text_file, kinds="8:16", ratio=0.3), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_interrupted_runs_with_kinds_end_alike(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    """The scores of every kind and the codes of both families are resumed from files."""
    path, given = make_model(**SIZES), recipe(text_file, kinds="2:4,8:16,12:16", ratio=0.3)
    learn(path, given, tmp_path / "whole").masks.save(tmp_path / "expected")

    class Stop(Exception):
        pass

    for at in ("scoring", "solving"):

        def stop(what: str, done: int, total: int, at: str = at) -> None:
            if what.startswith(at) and done > total // 2:
                raise Stop

        with pytest.raises(Stop):
            learn(path, given, tmp_path / "cut", stop)
    learn(path, given, tmp_path / "cut", note=lambda _: None).masks.save(tmp_path / "found")
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()


def test_ratios_of_the_kinds_differ_from_bytes() -> None:
    """n:16 and 2:4 take 1/8 of a byte for their codes: at one ratio, kinds that keep more take more bytes."""
    for kind in PRUNED.values():
        codes = 0.1875 if kind.name == "6:8" else 0.125
        assert kind.bytes_per_weight == 2.0 * (1.0 - kind.zeros) + codes
