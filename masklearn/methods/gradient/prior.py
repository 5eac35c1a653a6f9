"""Prior of mask learning: the masks that training starts from, in a file that every process reads."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.printable import counted
from masklearn.base.processes import made_once
from masklearn.base.shard import Shard, write_shard
from masklearn.choice.losses import Losses
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.nm_codes import patterns_from_scores
from masklearn.masks.record import TrainRecord
from masklearn.masks.tiles import GROUP, expand_tiles, grid_shape, spell_tile, tile_weights, weights_of_tiles
from masklearn.methods.base import Candidate, Settled, method_of
from masklearn.methods.gradient.settings import MaskSettings
from masklearn.model.linears import read_linear
from masklearn.model.store import WeightStore
from masklearn.quality.comparison import divergences
from masklearn.quant.grid import Grid
from masklearn.solvers import alps
from masklearn.solvers.solve import round_weights, solve
from masklearn.stream.feed import CheckpointFeed, solving_folder
from masklearn.task import Task
from masklearn.traits import METHODS, method_names


class Prior(Mapping[str, Candidate]):
    """Candidates by linear. Each access reads a candidate from the file."""

    def __init__(self, path: Path) -> None:
        self._shard = Shard.open(path)
        self._names = [key.removesuffix(".score") for key in self._shard.tensors if key.endswith(".score")]

    def __getitem__(self, name: str) -> Candidate:
        return Candidate(self._shard.read(f"{name}.pattern"), self.score(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def score(self, name: str) -> NDArray[np.float32]:
        """Read only the tile scores, `[grid]`."""
        score: NDArray[np.float32] = self._shard.read(f"{name}.score")
        return score


def prior_path(task: Task) -> Path:
    return task.scratch / "train" / "prior.safetensors"


def write_prior(task: Task, path: Path) -> None:
    """Write the recipe's prior to `path`: the candidates of a one-shot method, or the masks of a file.

    Raises MaskLearnError if `recipe.prior` is neither, or if the file's masks have another model, coverage, tile size
    or order of hidden channels.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = dict(_candidates(task))
    specs: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in task.coverage.linears.items():
        specs[f"{name}.pattern"] = ("U8", (shape[0], shape[1] // GROUP))
        specs[f"{name}.score"] = ("F32", grid_shape(shape, task.recipe.tile))

    def tensor(key: str) -> NDArray[np.uint8] | NDArray[np.float32]:
        name, kind = key.rsplit(".", 1)
        return parts[name].pattern if kind == "pattern" else parts[name].score

    write_shard(path, specs, tensor, {"prior": task.recipe.prior})


def _candidates(task: Task) -> Iterator[tuple[str, Candidate]]:
    prior, one_shot = task.recipe.prior, method_names(trained=False)
    if prior in one_shot:
        linears = method_of(prior).candidates(CheckpointFeed(task))
        return ((name, candidates[TWO_FOUR]) for name, candidates in linears)
    if Path(prior).is_file():
        return _of_masks(task, MaskSet.load(prior))
    raise MaskLearnError(
        f"There is no prior {prior!r}",
        f"Mask learning starts from one of {', '.join(one_shot)}, or from a masks file.",
        "Name a method, or give the path of a masks.safetensors.",
    )


def _of_masks(task: Task, masks: MaskSet) -> Iterator[tuple[str, Candidate]]:
    """Yield candidates from the masks of a file. A 2:4 tile scores 0, and a dense tile the number of its weights.

    The file has no patterns for dense tiles, so these keep the two largest |w| of each group.
    """
    _check_masks(task, masks)
    for done, name in enumerate(task.coverage.linears, start=1):
        mask = masks[name]
        weight = read_linear(task.checkpoint, name)
        pattern: NDArray[np.uint8] = patterns_from_scores(weight.abs()).numpy()
        pattern[expand_tiles(mask.tiles, mask.shape, mask.tile)] = mask.pattern
        score = np.where(mask.tiles, 0, tile_weights(mask.shape, mask.tile)).astype(np.float32)
        yield name, Candidate(pattern, score)
        task.progress("reading the prior", done, len(masks))


def _check_masks(task: Task, masks: MaskSet) -> None:
    masks.check_covers(task.coverage.linears)
    if masks.orders or task.recipe.permute:
        theirs = (
            "its masks were learned with `permute`" if masks.orders else "with `permute` they change places"
        )
        raise MaskLearnError(
            f"The prior {task.recipe.prior} has hidden channels in another order",
            f"It says which weights of the checkpoint stay by their places: {theirs}.",
            "Name a one-shot method as the prior, or give masks that were learned without `permute` and leave it out.",
        )
    if masks.base_sha256 != task.checkpoint.fingerprint():
        raise MaskLearnError(
            f"The prior {task.recipe.prior} was learned on other weights",
            f"It belongs to {masks.base_model}; the checkpoint at {task.checkpoint.path} differs from that.",
            "Give masks of this checkpoint, or name a one-shot method.",
        )
    others = [kind.name for kind in masks.by_kind() if kind not in (DENSE, TWO_FOUR)]
    if others:
        raise MaskLearnError(
            f"The prior {task.recipe.prior} has tiles of kind {' and '.join(others)}",
            f"The method {task.recipe.method} learns 2:4 tiles only.",
            "Name a one-shot method as the prior, or give masks that were learned with `kinds` 2:4.",
        )
    wanted = task.recipe.tile
    for name, mask in masks.items():
        if mask.tile != wanted:
            raise MaskLearnError(
                f"The prior {task.recipe.prior} has other tiles",
                f"{name} has tiles of {spell_tile(mask.tile)}, {spell_tile(wanted)} are asked for.",
                f"Give `tile` {spell_tile(mask.tile)}, or another prior.",
            )


Tiles = Mapping[str, NDArray[np.bool_]]
Patterns = Mapping[str, NDArray[np.uint8]]

_FAMILY = TWO_FOUR.name
_LEARNED, _LEARNED_TILES, _PRIOR = "learned", "learned tiles, patterns of the solve", "prior"


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of all linears to compare. patterns: codes `[N, K/4]` of every group, None if the solver chooses them."""

    name: str
    tiles: Tiles
    patterns: Patterns | None

    def same_as(self, other: "Masks") -> bool:
        if (self.patterns is None) != (other.patterns is None):
            return False
        same = all(np.array_equal(grid, other.tiles[name]) for name, grid in self.tiles.items())
        ours, theirs = self.patterns or {}, other.patterns or {}
        return same and all(np.array_equal(codes, theirs[name]) for name, codes in ours.items())


def report_path(task: Task) -> Path:
    return task.scratch / "train" / "report.json"


def solve_best(
    task: Task, settings: MaskSettings, tiles: Tiles, patterns: Patterns, store: WeightStore
) -> Settled:
    """Solve weights for the learned and the prior's masks, keep the better result, and round quantised linears.

    tiles, patterns: the learned masks, patterns `[N, K/4]` of all groups; store: receives the new weights. One of several
    processes does the work, in a folder that all of them share.
    """
    path = made_once(
        task.scratch / "train" / "best.safetensors",
        lambda: _write_best(task, settings, tiles, patterns, store),
    )
    shard = Shard.open(path)
    names, types = list(task.coverage.linears), CheckpointFeed(task).types
    return Settled(
        {name: shard.read(f"{name}.tiles") for name in names},
        {name: {_FAMILY: shard.read(f"{name}.pattern")} for name in names},
        TrainRecord.model_validate_json(shard.metadata["record"]),
        {name: Grid(kind, shard.read(f"{name}.scales")) for name, kind in types.items()},
    )


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
        codes = None
        if masks.patterns is not None:
            codes = {name: {_FAMILY: pattern} for name, pattern in masks.patterns.items()}
        codes_of = solve(feed, kinds, own, alps.solve_group, codes).codes
        solved.append({name: codes[_FAMILY] for name, codes in codes_of.items()})
    _, windows = task.text.held_out()
    pruned = [task.checkpoint.with_weights(own) for own in stores]
    kls = divergences(task.checkpoint, pruned, windows, task.recipe.device, task.progress, task.activations)
    best = int(np.argmin(kls))
    kl = {masks.name: value for masks, value in zip(contenders, kls, strict=True)}
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
    before = task.choose(Losses({name: prior.score(name) for name in areas}, areas)).tiles
    free = task.recipe.prior in METHODS and METHODS[task.recipe.prior].solves
    own = None if free else {name: prior[name].pattern for name in areas}
    free_tiles = free and not settings.learns_patterns
    contenders = [Masks(_PRIOR, before, own), Masks(_LEARNED, tiles, None if free_tiles else patterns)]
    if settings.learns_tiles and settings.learns_patterns:
        contenders.append(Masks(_LEARNED_TILES, tiles, None))
    return [
        masks
        for i, masks in enumerate(contenders)
        if not any(masks.same_as(other) for other in contenders[:i])
    ]


def _line(kl: Mapping[str, float], kept: str, windows: int) -> str:
    figures = ", ".join(f"{name} {value:.4f}" for name, value in kl.items())
    why = ""
    if kept == _PRIOR:
        why = "; training made no better masks" if len(kl) > 1 else "; training changed no mask"
    return f"KL to the dense model on {counted(windows, 'window')} held out, weights solved: {figures}. Kept: {kept}{why}"


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
