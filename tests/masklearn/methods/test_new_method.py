"""A new method needs only a class to learn masks for a checkpoint and for an ONNX file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.feed import Feed
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.tiles import GROUP, grid_shape, tile_sums
from masklearn.methods import Candidate, Candidates, Method
from masklearn.methods.gradient.prior import Prior, write_prior
from masklearn.traits import METHODS, Requires
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny
from tests.refusals import refused
from tests.sources.onnx_model import graphs
from tests.sources.onnx_model.learning import learn as learn_onnx

TILE = (32, 32)
SETTINGS = {"method": "first-two", "ratio": 0.3, "tile": TILE, "repair": None}


class FirstTwo(Method):
    """Keeps the first two weights of each group; a tile costs the sum of |w| of the others."""

    name = "first-two"
    summary = "keeps the first two of each four"

    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidates]]:
        for name, weight in feed.weights():
            gone = weight.abs().view(weight.shape[0], -1, GROUP)[..., 2:].sum(dim=2)
            codes = np.zeros(gone.shape, np.uint8)
            yield name, {TWO_FOUR: Candidate(codes, tile_sums(gone.numpy(), feed.recipe.tile))}


class Wanting(FirstTwo):
    """A variant of FirstTwo that claims to be trained."""

    name = "wanting"
    needs = frozenset({Requires.TRAINING})


@pytest.fixture(autouse=True)
def entered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (FirstTwo, Wanting):
        monkeypatch.setitem(METHODS._classes, kind.name, kind)


def check(masks: Any) -> None:
    assert any(mask.tiles.any() for mask in masks.values())
    for mask in masks.values():
        kept = mask.keep().reshape(mask.shape[0], -1, GROUP)
        assert kept[..., :2].all()
        assert np.array_equal(~kept[..., 2], ~kept[..., 3])


def test_a_checkpoint_is_learned_by_it(make_model: ModelMaker, tiny: Tiny) -> None:
    found = tiny.learn(make_model())
    check(found.masks)
    assert found.masks.method == "first-two"
    assert abs(found.masks.ratio - 0.3) * found.masks.weights < TILE[0] * TILE[1]
    assert found.masks.record.text is None and found.masks.record.repair is None


def test_masks_that_train_may_start_from_it(make_model: ModelMaker, tiny: Tiny) -> None:
    task = tiny.task(make_model(), method="patch-joint", prior="first-two")
    write_prior(task, tiny.folder / "prior")
    prior = Prior(tiny.folder / "prior")
    for name, shape in task.coverage.linears.items():
        assert not prior[name].pattern.any()
        assert prior.score(name).shape == grid_shape(shape, TILE)


def test_an_onnx_file_is_learned_by_it(tmp_path: Path) -> None:
    path = graphs.export(graphs.mlp, tmp_path / "m.onnx", dynamo=False)
    check(learn_onnx(path, tmp_path, method="first-two", tile=TILE).masks)


def test_settings_without_onnx_support_are_named(tmp_path: Path) -> None:
    path = graphs.export(graphs.mlp, tmp_path / "m.onnx", dynamo=False)
    with refused():
        learn_onnx(path, tmp_path, method="wanting")
