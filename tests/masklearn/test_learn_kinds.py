"""Learning with other kinds of tiles than 2:4, from the weights of a model to its pruned checkpoint."""

import numpy as np
import pytest

from masklearn.learning import Learned
from masklearn.masks.kinds.table import BY_CODE
from masklearn.masks.maskset import MaskSet
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny

SETTINGS = {"tile": (32, 64)}
SIZES = {"hidden_size": 64, "intermediate_size": 128}


def check(learned: Learned, tiny: Tiny) -> None:
    """Every tile of the pruned model keeps as many weights as its kind says, and the set survives its file."""
    masks, pruned = learned.masks, tiny.prune(learned)
    masks.save(tiny.folder / "masks")
    loaded = MaskSet.load(tiny.folder / "masks")
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
@pytest.mark.parametrize("weights", [None, "w8a8"])
def test_every_method_mixes_kinds(
    make_model: ModelMaker, tiny: Tiny, method: str, weights: str | None
) -> None:
    """Kinds that go with inputs of 8 bits are others."""
    settings = {"method": method, "kinds": "auto", "ratio": 0.3 if weights else 0.35, "weights": weights}
    learned = tiny.learn(make_model(**SIZES), **settings)
    check(learned, tiny)
    assert abs(learned.masks.ratio - settings["ratio"]) * learned.masks.weights < 32 * 64 / 2
    kinds = {kind.name for kind in learned.masks.by_kind()}
    assert kinds | {"dense"} == {"dense", "2:4", "6:8"} if weights else len(kinds) >= 2


def test_one_kind_everywhere_needs_no_scores(make_model: ModelMaker, tiny: Tiny) -> None:
    """Repair keeps pruned weights at 0."""
    settings = {"kinds": "12:16", "ratio": 0.25, "repair": "distill", "repair_steps": 2}
    learned = tiny.learn(make_model(**SIZES), **settings)
    check(learned, tiny)
    assert [kind.name for kind in learned.masks.by_kind()] == ["12:16"]
    assert (learned.masks.ratio, learned.masks.bytes_per_weight) == (0.25, 1.625)
    assert learned.masks.record.repair is not None
    assert learned.masks.record.repair.steps == 2
    assert not (tiny.folder / "scratch" / "scores").exists()


def test_permuted_with_kinds_by_pattern(make_model: ModelMaker, tiny: Tiny) -> None:
    settings = {"kinds": "mlp.*=8:16,12:16,q_proj=2:4", "ratio": 0.3, "permute": True}
    learned = tiny.learn(make_model(**SIZES), **settings)
    check(learned, tiny)
    for name, mask in learned.masks.items():
        kinds = {kind.name for kind in mask.by_kind()} - {"dense"}
        assert kinds <= ({"8:16", "12:16"} if ".mlp." in name else {"2:4"}), name
    assert learned.masks.orders


@pytest.mark.parametrize("kinds", ["auto", "2:4"])
def test_bytes_are_not_exceeded(make_model: ModelMaker, tiny: Tiny, kinds: str) -> None:
    settings = {"method": "magnitude", "kinds": kinds, "bytes_per_weight": 1.4}
    learned = tiny.learn(make_model(**SIZES), **settings)
    masks = learned.masks
    assert 1.4 - 0.875 * 32 * 64 / masks.weights < masks.bytes_per_weight <= 1.4
    assert masks.record.budget is not None
    assert masks.record.budget.unit == "bytes"
    assert masks.ratio_asked == masks.ratio
