"""Compares the learned masks with those of the prior, and keeps the better ones.

Training minimises the loss of the dense weights under a mask, but the result has weights that are solved for the mask.
The masks are therefore compared with their solved weights, before repair, by the KL from the dense model on windows that
are held out of training. Each contender costs one solve, and the kept one needs it anyway. The weights of quantised linears
are rounded after the comparison.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.processes import made_once
from masklearn.base.shard import Shard, write_shard
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.record import TrainRecord
from masklearn.masks.tiles import weights_of_tiles
from masklearn.methods.gradient.prior import Prior, prior_path
from masklearn.methods.gradient.settings import MaskSettings
from masklearn.model.store import WeightStore
from masklearn.quality.divergence import divergences
from masklearn.quant.grid import Grid
from masklearn.solvers import alps
from masklearn.solvers.solve import round_weights, solve
from masklearn.stream.feed import CheckpointFeed, solving_folder
from masklearn.task import Task
from masklearn.text.calibrate import TokenPool
from masklearn.traits import METHODS

__all__ = ["Best", "Masks", "held_out", "report_path", "solve_best"]

Tiles = Mapping[str, NDArray[np.bool_]]
Patterns = Mapping[str, NDArray[np.uint8]]

_FAMILY = TWO_FOUR.name
_HELD_OUT = 16  # windows; an eighth of the pool if that is less
_LEARNED, _LEARNED_TILES, _PRIOR = "learned", "learned tiles, patterns of the solve", "prior"


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of all linears to compare. patterns: codes `[N, K/4]` of every group, None if the solver chooses them."""

    name: str
    tiles: Tiles
    patterns: Patterns | None

    def same_as(self, other: "Masks") -> bool:
        """True if solving gives the same weights for both."""
        if (self.patterns is None) != (other.patterns is None):
            return False
        same = all(np.array_equal(grid, other.tiles[name]) for name, grid in self.tiles.items())
        ours, theirs = self.patterns or {}, other.patterns or {}
        return same and all(np.array_equal(codes, theirs[name]) for name, codes in ours.items())


def held_out(pool: TokenPool) -> tuple[TokenPool, NDArray[np.int64]]:
    """Split the last windows off the pool. Returns the pool for training, and the held-out windows `[count, length]`.

    The held-out windows are ones that calibration does not use, if there are any. A pool of one window is returned as
    both.
    """
    total = len(pool.windows)
    count = min(_HELD_OUT, max(1, total // 8))
    if total == 1:
        return pool, pool.windows
    kept = pool.windows[: total - count]
    return TokenPool(kept, pool.record, min(pool.count, len(kept))), pool.windows[total - count :]


def report_path(task: Task) -> Path:
    """Returns the path of the file with the figures of training."""
    return task.scratch / "train" / "report.json"


@dataclass(frozen=True, eq=False)
class Best:
    """The kept masks: tile maps, patterns `[N, K/4]` of all groups, the record of training and comparison, and the grids of
    the quantised linears."""

    tiles: Tiles
    patterns: Patterns
    record: TrainRecord
    grids: Mapping[str, Grid]


def solve_best(
    task: Task, settings: MaskSettings, tiles: Tiles, patterns: Patterns, store: WeightStore
) -> Best:
    """Solve weights for the learned masks and for the prior's, keep the better ones, and round those of quantised linears.

    tiles, patterns: the learned masks; store: receives the new weights. One of several processes does the work, in a folder
    that all of them share.
    """
    path = made_once(
        task.scratch / "train" / "best.safetensors",
        lambda: _write_best(task, settings, tiles, patterns, store),
    )
    shard = Shard.open(path)
    names = list(task.coverage.linears)
    best_tiles = {name: shard.read(f"{name}.tiles").astype(np.bool_) for name in names}
    best_patterns = {name: shard.read(f"{name}.pattern") for name in names}
    types = CheckpointFeed(task).types
    grids = {name: Grid(kind, shard.read(f"{name}.scales")) for name, kind in types.items()}
    return Best(best_tiles, best_patterns, TrainRecord.model_validate_json(shard.metadata["record"]), grids)


def _write_best(
    task: Task, settings: MaskSettings, tiles: Tiles, patterns: Patterns, store: WeightStore
) -> None:
    contenders, feed = _contenders(task, settings, tiles, patterns), CheckpointFeed(task.in_16_bits())
    below = task.checkpoint.new
    stores = [WeightStore(task.scratch / "train" / f"solved-{i}", below) for i in range(len(contenders))]
    solved = []
    for masks, own in zip(contenders, stores, strict=True):
        task.note(f"solving for: {masks.name}")
        kinds = {name: grid.astype(np.uint8) for name, grid in masks.tiles.items()}
        given = None
        if masks.patterns is not None:
            given = {name: {_FAMILY: codes} for name, codes in masks.patterns.items()}
        codes_of = solve(feed, kinds, own, alps.solve_group, given).codes
        solved.append({name: codes[_FAMILY] for name, codes in codes_of.items()})
    _, windows = held_out(task.text)
    pruned = [task.checkpoint.with_weights(own) for own in stores]
    found = divergences(task.checkpoint, pruned, windows, task.recipe.device, task.progress, task.activations)
    best = int(np.argmin(found))
    kl = {masks.name: value for masks, value in zip(contenders, found, strict=True)}
    task.note(_line(kl, contenders[best].name, len(windows)))
    grids = _round(task, contenders[best].tiles, solved[best], stores[best], store)
    if not grids:  # else the store has the rounded weights of all linears
        for file in stores[best].folder.iterdir():
            file.replace(store.folder / file.name)
    for own in stores:
        shutil.rmtree(own.folder)
        shutil.rmtree(solving_folder(own))
    record = json.loads(report_path(task).read_text()) | {"kept": contenders[best].name, "kl": kl}
    _write(task.scratch / "train" / "best.safetensors", contenders[best].tiles, solved[best], record, grids)


def _round(
    task: Task, tiles: Tiles, patterns: Patterns, solved: WeightStore, store: WeightStore
) -> dict[str, Grid]:
    """Round the solved weights of quantised linears, on the inputs that reach them. Returns the grids.

    store: receives the rounded weights of all linears; nothing if no linear is quantised.
    """
    feed = CheckpointFeed(task.of(task.checkpoint.with_weights(solved)))
    if not feed.types:
        return {}
    masks = {name: LinearMask.from_candidate(task.recipe.tile, tiles[name], patterns[name]) for name in tiles}
    return round_weights(feed, masks, store)


def _contenders(task: Task, settings: MaskSettings, tiles: Tiles, patterns: Patterns) -> list[Masks]:
    """Returns the masks to compare without duplicates, the prior's first.

    If the prior's method lets the solver choose patterns, so does the comparison for the prior. Settings that learn only
    tiles then let the solver choose patterns too. Settings that learn both compare learned patterns and the solver's.
    """
    prior = Prior(prior_path(task))
    areas = weights_of_tiles(task.coverage.linears, task.recipe.tile)
    before, _ = task.choose({name: prior.score(name) for name in areas}, areas)
    free = task.recipe.prior in METHODS and METHODS[task.recipe.prior].solves
    own = None if free else {name: prior[name].pattern for name in areas}
    free_tiles = free and not settings.learns_patterns
    contenders = [Masks(_PRIOR, before, own), Masks(_LEARNED, tiles, None if free_tiles else patterns)]
    if settings.learns_tiles and settings.learns_patterns:
        contenders.append(Masks(_LEARNED_TILES, tiles, None))
    return _different(contenders)


def _different(contenders: Sequence[Masks]) -> list[Masks]:
    different: list[Masks] = []
    for masks in contenders:
        if not any(masks.same_as(other) for other in different):
            different.append(masks)
    return different


def _line(kl: Mapping[str, float], kept: str, windows: int) -> str:
    figures = ", ".join(f"{name} {value:.4f}" for name, value in kl.items())
    why = ""
    if kept == _PRIOR:
        why = "; training made no better masks" if len(kl) > 1 else "; training changed no mask"
    return (
        f"KL to the dense model on {windows} windows held out, weights solved: {figures}. Kept: {kept}{why}"
    )


def _write(
    path: Path, tiles: Tiles, patterns: Patterns, record: Mapping[str, Any], grids: Mapping[str, Grid]
) -> None:
    specs: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, grid in tiles.items():
        specs[f"{name}.tiles"] = ("U8", grid.shape)
        specs[f"{name}.pattern"] = ("U8", patterns[name].shape)
    specs |= {f"{name}.scales": ("F32", grid.scales.shape) for name, grid in grids.items()}

    def tensor(key: str) -> NDArray[Any]:
        name, kind = key.rsplit(".", 1)
        if kind == "scales":
            return grids[name].scales
        return tiles[name].astype(np.uint8) if kind == "tiles" else patterns[name]

    write_shard(path, specs, tensor, {"record": json.dumps(record)})
