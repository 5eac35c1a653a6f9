from pathlib import Path

import numpy as np
import pytest

from masklearn.base.errors import MaskLearnError
from masklearn.masks.kinds.table import FAMILIES, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.select import select
from masklearn.masks.tiles import expand_tiles, tile_weights
from masklearn.methods import method_of
from masklearn.methods.gradient.prior import Prior, write_prior
from masklearn.stream.feed import CheckpointFeed
from masklearn.task import Task
from tests.conftest import ModelMaker
from tests.masklearn.methods.gradient.tasks import TILE, make_task


def prior_of(task: Task) -> Prior:
    path = task.scratch / "prior.safetensors"
    write_prior(task, path)
    return Prior(path)


def masks_of(task: Task, tile: tuple[int, int] = TILE, sha: str | None = None) -> MaskSet:
    """Masks with every third tile 2:4 and random patterns."""
    draw, masks = np.random.default_rng(0), {}
    for name, (n, k) in task.coverage.linears.items():
        areas = tile_weights((n, k), tile)
        tiles = (np.arange(areas.size).reshape(areas.shape) % 3 == 0).astype(np.bool_)
        pattern = draw.integers(0, 6, (n, k // 4), dtype=np.uint8)
        masks[name] = LinearMask.from_candidate(tile, tiles, pattern)
    sha = task.checkpoint.fingerprint() if sha is None else sha
    return MaskSet(masks, method="magnitude", seed=0, base_model="m", base_sha256=sha, ratio_asked=0.2)


def test_a_method_is_kept_as_it_yields(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", method="patch-joint", prior="wanda")
    prior = prior_of(task)
    expected = dict(method_of("wanda").candidates(CheckpointFeed(task)))
    assert list(prior) == list(expected)
    for name, candidates in expected.items():
        candidate = candidates[TWO_FOUR]
        np.testing.assert_array_equal(prior[name].pattern, candidate.pattern)
        np.testing.assert_array_equal(prior[name].score, candidate.score)


def test_a_masks_file_gives_its_tiles_and_patterns_back(make_model, text_file: Path, tmp_path: Path) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", prior=str(tmp_path / "masks"))
    masks = masks_of(task)
    masks.save(tmp_path / "masks")
    prior = prior_of(task)
    areas = {name: tile_weights(shape, TILE) for name, shape in task.coverage.linears.items()}
    tiles = select({name: prior.score(name) for name in prior}, areas, masks.ratio)
    for name, mask in masks.items():
        np.testing.assert_array_equal(tiles[name], mask.tiles)
        sparse = expand_tiles(mask.tiles, mask.shape, TILE)
        np.testing.assert_array_equal(prior[name].pattern[sparse], mask.pattern)
        weight = task.checkpoint.read(f"{name}.weight")
        kept = LinearMask.from_candidate(TILE, np.ones_like(mask.tiles), prior[name].pattern).keep()
        groups = np.abs(weight).reshape(mask.shape[0], -1, 4)
        largest = np.sort(groups, axis=-1)[..., 2:].sum(axis=-1)
        found = (groups * kept.reshape(groups.shape)).sum(axis=-1)
        np.testing.assert_allclose(found[~sparse], largest[~sparse], rtol=1e-6)


def test_masks_of_other_weights_are_refused(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", prior=str(tmp_path / "masks"))
    masks_of(task, sha="0" * 64).save(tmp_path / "masks")
    with pytest.raises(MaskLearnError, match="learned on other weights"):
        prior_of(task)


def test_masks_of_another_shape_are_refused(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", prior=str(tmp_path / "masks"))
    wider = make_task(make_model(intermediate_size=80), text_file, tmp_path / "t")
    masks_of(wider, sha=task.checkpoint.fingerprint()).save(tmp_path / "masks")
    with pytest.raises(MaskLearnError, match=r"\[80, 48\] in the masks and \[72, 48\] in the model"):
        prior_of(task)


def test_masks_with_other_tiles_are_refused(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", prior=str(tmp_path / "masks"))
    masks_of(task, tile=(16, 16)).save(tmp_path / "masks")
    with pytest.raises(MaskLearnError, match=r"tiles of 16x16, 32x32 are asked for.*`tile` 16x16"):
        prior_of(task)


@pytest.mark.parametrize("prior", ["patch-joint", "no/such/file", "wandas", ""])
def test_what_is_no_prior_is_refused(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, prior: str
) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", prior=prior)
    with pytest.raises(MaskLearnError, match=f"There is no prior '{prior}'.*wanda.*masks file"):
        prior_of(task)


def test_the_wrong_kind_of_file_is_refused(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", prior=str(text_file))
    with pytest.raises(MaskLearnError, match=r"text\.txt"):
        prior_of(task)
    assert not (tmp_path / "s" / "prior.safetensors").exists()


def test_masks_with_other_kinds_are_refused(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    model = make_model(hidden_size=64, intermediate_size=64)
    task = make_task(model, text_file, tmp_path / "s", prior=str(tmp_path / "masks"))
    linears, sha = task.coverage.linears, task.checkpoint.fingerprint()
    kinds, scores = np.full((1, 1), 3, np.uint8), np.random.default_rng(0)
    masks = {
        name: LinearMask.from_codes(
            shape, shape, kinds, {"n:16": FAMILIES["n:16"].best(scores.random(shape), 12)}
        )
        for name, shape in linears.items()
    }
    made = MaskSet(masks, method="x", seed=0, base_model="m", base_sha256=sha, ratio_asked=0.25)
    made.save(tmp_path / "masks")
    with pytest.raises(MaskLearnError, match=r"has tiles of kind 12:16.*learns 2:4 tiles only"):
        prior_of(task)
