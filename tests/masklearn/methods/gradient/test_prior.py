import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.choice.select import select
from masklearn.masks.kinds.table import PRUNED, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import TrainRecord
from masklearn.masks.tiles import expand_tiles, grid_shape, tile_weights
from masklearn.methods import method_of
from masklearn.methods.gradient.prior import Prior, prior_path, report_path, solve_best, write_prior
from masklearn.methods.trained import PatchJoint, PatchTile
from masklearn.model.store import WeightStore
from masklearn.solvers import alps
from masklearn.solvers.solve import solve
from masklearn.stream.feed import CheckpointFeed
from masklearn.task import Task
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny
from tests.mosaics import mosaic
from tests.refusals import refused

TILE = (32, 32)
SETTINGS = {"tile": TILE, "method": "patch-joint", "ratio": 0.25, "device": "cpu"}
Linears = Mapping[str, tuple[int, int]]


def prior_of(task: Task) -> Prior:
    path = task.scratch / "prior.safetensors"
    write_prior(task, path)
    return Prior(path)


def masks_of(task: Task, linears: Linears, tile: tuple[int, int] = TILE, sha: str | None = None) -> MaskSet:
    """Masks with every third tile 2:4 and random patterns."""
    draw, masks = np.random.default_rng(0), {}
    for name, (n, k) in linears.items():
        areas = tile_weights((n, k), tile)
        tiles = (np.arange(areas.size).reshape(areas.shape) % 3 == 0).astype(np.bool_)
        pattern = draw.integers(0, 6, (n, k // 4), dtype=np.uint8)
        masks[name] = LinearMask.from_candidate(tile, tiles, pattern)
    return of_model(task, masks, sha)


def of_model(task: Task, masks: dict[str, LinearMask], sha: str | None = None) -> MaskSet:
    sha = task.checkpoint.fingerprint() if sha is None else sha
    return MaskSet(masks, method="magnitude", seed=0, base_model="m", base_sha256=sha, ratio_asked=0.2)


def test_a_method_is_kept_as_it_yields(make_model: ModelMaker, tiny: Tiny) -> None:
    task = tiny.task(make_model(), prior="wanda")
    prior = prior_of(task)
    expected = dict(method_of("wanda").candidates(CheckpointFeed(task)))
    assert list(prior) == list(expected)
    for name, candidates in expected.items():
        candidate = candidates[TWO_FOUR]
        np.testing.assert_array_equal(prior[name].pattern, candidate.pattern)
        np.testing.assert_array_equal(prior[name].score, candidate.score)


def test_a_masks_file_restores_tiles_and_patterns(make_model, tiny: Tiny) -> None:
    task = tiny.task(make_model(), prior=str(tiny.folder / "masks"))
    masks = masks_of(task, task.coverage.linears)
    masks.save(tiny.folder / "masks")
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


OTHERS: dict[str, Callable[[Task, Linears], MaskSet]] = {
    "weights": lambda task, linears: masks_of(task, linears, sha="0" * 64),
    "shapes": lambda task, linears: masks_of(task, {name: (n, k + 8) for name, (n, k) in linears.items()}),
    "tiles": lambda task, linears: masks_of(task, linears, tile=(16, 16)),
    "kinds": lambda task, linears: of_model(
        task, {name: mosaic(shape, (64, 64), 0, [PRUNED["12:16"]]) for name, shape in linears.items()}
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_masks_of_another_kind_are_refused(make_model: ModelMaker, tiny: Tiny, other: str) -> None:
    model = make_model(hidden_size=64, intermediate_size=64)
    task = tiny.task(model, prior=str(tiny.folder / "masks"))
    OTHERS[other](task, task.coverage.linears).save(tiny.folder / "masks")
    with refused():
        prior_of(task)


@pytest.mark.parametrize("prior", ["patch-joint", "no/such/file", "wandas", "", "text.txt"])
def test_what_is_no_prior_is_refused(
    make_model: ModelMaker, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, prior: str
) -> None:
    """A text is a file of another kind."""
    monkeypatch.chdir(tiny.folder)
    task = tiny.task(make_model(), prior=prior)
    with refused():
        prior_of(task)
    assert not (task.scratch / "prior.safetensors").exists()


TRAINING = {kind.name: kind.settings for kind in (PatchJoint, PatchTile)}
Masks = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def prepared(tiny: Tiny, model: Path, notes: list[str], **settings: Any) -> Task:
    task = tiny.task(model, note=notes.append, **settings)
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
    settled = solve_best(task, TRAINING[task.recipe.method], *masks, store)
    assert settled.train is not None
    return settled.kinds, {name: own["2:4"] for name, own in settled.codes.items()}, settled.train


@pytest.mark.parametrize("prior, patterns", [("wanda", True), ("sparsegpt", False)])
def test_a_prior_that_is_better_is_kept(
    make_model: ModelMaker, tiny: Tiny, prior: str, patterns: bool
) -> None:
    notes: list[str] = []
    task = prepared(tiny, make_model(), notes, prior=prior)
    store = WeightStore(tiny.folder / "weights")
    tiles, chosen, record = best(task, end_masks(task, sparse=True), store)
    assert record.kept == "prior"
    assert record.steps == 7
    assert record.kl["prior"] == min(record.kl.values())
    assert "training made no better masks" in notes[-1]
    assert 0 < sum(int(grid.sum()) for grid in tiles.values()) < sum(grid.size for grid in tiles.values())
    own = {name: candidate.pattern for name, candidate in Prior(prior_path(task)).items()}
    expected = solved(task, tiles, own if patterns else None, tiny.folder / "again")
    assert sorted(store.names()) == sorted(expected)
    for name, weight in expected.items():
        np.testing.assert_array_equal(store.read(name), weight)
    if patterns:
        for name, codes in own.items():
            np.testing.assert_array_equal(chosen[name], codes)
    assert not list((task.scratch / "train").glob("solved-*"))


def test_learned_masks_that_are_better_are_kept(make_model, tiny: Tiny) -> None:
    notes: list[str] = []
    task = prepared(tiny, make_model(), notes, prior="magnitude")
    tiles, _, record = best(task, end_masks(task, sparse=False), WeightStore(tiny.folder / "w"))
    assert record.kept == "learned"
    assert record.kl["learned"] == pytest.approx(0.0, abs=1e-5)
    assert not any(grid.any() for grid in tiles.values())
    assert "Kept: learned" in notes[-1]


def test_equal_contenders_are_solved_once(make_model: ModelMaker, tiny: Tiny) -> None:
    """`patch-tile` from a SparseGPT prior decides only tiles, because the solve chooses the patterns."""
    notes: list[str] = []
    settings = {"method": "patch-tile", "prior": "sparsegpt", "ratio": 0.5}
    task = prepared(tiny, make_model(), notes, **settings)
    _, _, record = best(task, end_masks(task, sparse=True), WeightStore(tiny.folder / "w"))
    assert list(record.kl) == ["prior"]
    assert "training changed no mask" in notes[-1]


def test_a_second_call_reads_what_the_first_decided(make_model, tiny: Tiny) -> None:
    task = prepared(tiny, make_model(), [], prior="magnitude")
    first = best(task, end_masks(task, sparse=True), WeightStore(tiny.folder / "w"))
    again = best(task, end_masks(task, sparse=False), WeightStore(tiny.folder / "w"))
    assert first[2] == again[2]
    for name, grid in first[0].items():
        np.testing.assert_array_equal(grid, again[0][name])
        np.testing.assert_array_equal(first[1][name], again[1][name])
