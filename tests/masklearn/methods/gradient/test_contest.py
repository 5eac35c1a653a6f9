import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.record import TrainRecord
from masklearn.masks.tiles import grid_shape
from masklearn.methods.gradient.prior import Prior, held_out, prior_path, report_path, solve_best, write_prior
from masklearn.methods.patch_joint import PatchJoint
from masklearn.methods.patch_tile import PatchTile
from masklearn.model.store import WeightStore
from masklearn.solvers import alps
from masklearn.solvers.solve import solve
from masklearn.stream.feed import CheckpointFeed
from masklearn.task import Task
from masklearn.text.calibrate import TokenPool
from tests.conftest import ModelMaker
from tests.masklearn.methods.gradient.tasks import TILE, make_task

SETTINGS = {kind.name: kind.settings for kind in (PatchJoint, PatchTile)}
Masks = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def pool(total: int, count: int) -> TokenPool:
    return TokenPool(np.arange(total)[:, None], {}, count)


@pytest.mark.parametrize("total, count, held", [(200, 32, 16), (40, 32, 5), (32, 32, 4), (2, 2, 1)])
def test_training_never_sees_what_is_held_out(total: int, count: int, held: int) -> None:
    rest, windows = held_out(pool(total, count))
    assert len(windows) == held
    assert sorted([*rest.windows.ravel(), *windows.ravel()]) == list(range(total))
    batches = rest.batches(2)
    seen = {int(i) for _ in range(total) for i in next(batches).ravel()}
    assert seen == set(rest.windows.ravel())
    # Calibration windows are held out only when there are no others.
    assert windows.min() >= count or total - count < held


def test_a_single_window_is_both() -> None:
    rest, windows = held_out(pool(1, 1))
    assert len(rest.windows) == len(windows) == 1


def prepared(model: Path, text: Path, scratch: Path, notes: list[str], **settings: Any) -> Task:
    task = make_task(model, text, scratch, notes, **({"method": "patch-joint", "ratio": 0.25} | settings))
    write_prior(task, prior_path(task))
    figures = {"prior": "wanda", "steps": 7, "tokens": 96, "first": {"kl": 0.2}, "last": {"kl": 0.1}}
    report_path(task).write_text(json.dumps(figures))
    return task


def masks_of(task: Task, *, sparse: bool) -> Masks:
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
    tiles, chosen, record = best(task, masks_of(task, sparse=True), store)
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
    tiles, _, record = best(task, masks_of(task, sparse=False), WeightStore(tmp_path / "w"))
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
    _, _, record = best(task, masks_of(task, sparse=True), WeightStore(tmp_path / "w"))
    assert list(record.kl) == ["prior"]
    assert "training changed no mask" in notes[-1]


def test_a_second_call_reads_what_the_first_decided(make_model, text_file: Path, tmp_path: Path) -> None:
    task = prepared(make_model(), text_file, tmp_path / "s", [], prior="magnitude")
    first = best(task, masks_of(task, sparse=True), WeightStore(tmp_path / "w"))
    again = best(task, masks_of(task, sparse=False), WeightStore(tmp_path / "w"))
    assert first[2] == again[2]
    for name, grid in first[0].items():
        np.testing.assert_array_equal(grid, again[0][name])
        np.testing.assert_array_equal(first[1][name], again[1][name])
