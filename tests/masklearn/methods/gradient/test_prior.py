import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.choice.select import select
from masklearn.masks.kinds.table import FAMILIES, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import TrainRecord
from masklearn.masks.tiles import expand_tiles, grid_shape, tile_weights
from masklearn.methods import method_of
from masklearn.methods.gradient.prior import Prior, prior_path, report_path, solve_best, write_prior
from masklearn.methods.patch_joint import PatchJoint
from masklearn.methods.patch_tile import PatchTile
from masklearn.model.store import WeightStore
from masklearn.solvers import alps
from masklearn.solvers.solve import solve
from masklearn.stream.feed import CheckpointFeed
from masklearn.task import Task
from tests.conftest import ModelMaker
from tests.masklearn.methods.gradient.tasks import TILE, make_task
from tests.refusals import refused


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


def test_a_masks_file_restores_tiles_and_patterns(make_model, text_file: Path, tmp_path: Path) -> None:
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
    with refused():
        prior_of(task)


def test_masks_of_another_shape_are_refused(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", prior=str(tmp_path / "masks"))
    wider = make_task(make_model(intermediate_size=80), text_file, tmp_path / "t")
    masks_of(wider, sha=task.checkpoint.fingerprint()).save(tmp_path / "masks")
    with refused():
        prior_of(task)


def test_masks_with_other_tiles_are_refused(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", prior=str(tmp_path / "masks"))
    masks_of(task, tile=(16, 16)).save(tmp_path / "masks")
    with refused():
        prior_of(task)


@pytest.mark.parametrize("prior", ["patch-joint", "no/such/file", "wandas", ""])
def test_what_is_no_prior_is_refused(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, prior: str
) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", prior=prior)
    with refused():
        prior_of(task)


def test_the_wrong_kind_of_file_is_refused(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    task = make_task(make_model(), text_file, tmp_path / "s", prior=str(text_file))
    with refused():
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
    with refused():
        prior_of(task)


SETTINGS = {kind.name: kind.settings for kind in (PatchJoint, PatchTile)}
Masks = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def prepared(model: Path, text: Path, scratch: Path, notes: list[str], **settings: Any) -> Task:
    task = make_task(model, text, scratch, notes, **({"method": "patch-joint", "ratio": 0.25} | settings))
    write_prior(task, prior_path(task))
    figures = {"prior": "wanda", "steps": 7, "tokens": 96, "first": {"kl": 0.2}, "last": {"kl": 0.1}}
    report_path(task).write_text(json.dumps(figures))
    return task


def end_masks(task: Task, *, sparse: bool) -> Masks:
    """Masks with every tile 2:4, the worst possible, or with none, the best possible."""
    tiles = {n: np.full(grid_shape(shape, TILE), sparse) for n, shape in task.coverage.linears.items()}
    prior = Prior(prior_path(task))
    return tiles, {name: 5 - prior[name].pattern for name in prior}


def solved(task: Task, tiles: Any, patterns: Any, scratch: Path) -> dict[str, np.ndarray]:
    store = WeightStore(scratch)
    kinds = {name: grid.astype(np.uint8) for name, grid in tiles.items()}
    codes = patterns and {name: {TWO_FOUR.name: one} for name, one in patterns.items()}
    solve(CheckpointFeed(task), kinds, store, alps.solve_group, codes)
    return {name: store.read(name) for name in store.names()}


def best(task: Task, masks: Masks, store: WeightStore) -> tuple[Any, Any, TrainRecord]:
    found = solve_best(task, SETTINGS[task.recipe.method], *masks, store)
    return found.tiles, found.patterns, found.record


@pytest.mark.parametrize("prior, patterns", [("wanda", True), ("sparsegpt", False)])
def test_a_prior_that_is_better_is_kept(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, prior: str, patterns: bool
) -> None:
    notes: list[str] = []
    task = prepared(make_model(), text_file, tmp_path / "s", notes, prior=prior)
    store = WeightStore(tmp_path / "weights")
    tiles, chosen, record = best(task, end_masks(task, sparse=True), store)
    assert record.kept == "prior"
    assert record.steps == 7
    assert record.kl["prior"] == min(record.kl.values())
    assert "training made no better masks" in notes[-1]
    assert 0 < sum(int(grid.sum()) for grid in tiles.values()) < sum(grid.size for grid in tiles.values())
    own = {name: candidate.pattern for name, candidate in Prior(prior_path(task)).items()}
    expected = solved(task, tiles, own if patterns else None, tmp_path / "again")
    assert sorted(store.names()) == sorted(expected)
    for name, weight in expected.items():
        np.testing.assert_array_equal(store.read(name), weight)
    if patterns:
        for name, codes in own.items():
            np.testing.assert_array_equal(chosen[name], codes)
    assert not list((tmp_path / "s" / "train").glob("solved-*"))


def test_learned_masks_that_are_better_are_kept(make_model, text_file: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    task = prepared(make_model(), text_file, tmp_path / "s", notes, prior="magnitude")
    tiles, _, record = best(task, end_masks(task, sparse=False), WeightStore(tmp_path / "w"))
    assert record.kept == "learned"
    assert record.kl["learned"] == pytest.approx(0.0, abs=1e-5)
    assert not any(grid.any() for grid in tiles.values())
    assert "Kept: learned" in notes[-1]


def test_equal_contenders_are_solved_once(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    """`patch-tile` from a SparseGPT prior decides only tiles, because the solve chooses the patterns."""
    notes: list[str] = []
    task = prepared(
        make_model(), text_file, tmp_path / "s", notes, method="patch-tile", prior="sparsegpt", ratio=0.5
    )
    _, _, record = best(task, end_masks(task, sparse=True), WeightStore(tmp_path / "w"))
    assert list(record.kl) == ["prior"]
    assert "training changed no mask" in notes[-1]


def test_a_second_call_reads_what_the_first_decided(make_model, text_file: Path, tmp_path: Path) -> None:
    task = prepared(make_model(), text_file, tmp_path / "s", [], prior="magnitude")
    first = best(task, end_masks(task, sparse=True), WeightStore(tmp_path / "w"))
    again = best(task, end_masks(task, sparse=False), WeightStore(tmp_path / "w"))
    assert first[2] == again[2]
    for name, grid in first[0].items():
        np.testing.assert_array_equal(grid, again[0][name])
        np.testing.assert_array_equal(first[1][name], again[1][name])
