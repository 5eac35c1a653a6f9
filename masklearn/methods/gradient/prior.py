"""Prior of mask learning: the masks that training starts from, in a file that every process reads."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.shard import Shard, write_shard
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.nm_codes import patterns_from_scores
from masklearn.masks.tiles import GROUP, expand_tiles, grid_shape, spell_tile, tile_weights
from masklearn.methods.base import Candidate, method_of
from masklearn.model.linears import read_linear
from masklearn.stream.feed import CheckpointFeed
from masklearn.task import Task
from masklearn.traits import method_names

__all__ = ["Prior", "prior_path", "write_prior"]


class Prior(Mapping[str, Candidate]):
    """Candidates by linear. Each access reads one from the file."""

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
    """Returns the path of the task's prior."""
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
        found = method_of(prior).candidates(CheckpointFeed(task))
        return ((name, candidates[TWO_FOUR]) for name, candidates in found)
    if Path(prior).is_file():
        return _of_masks(task, MaskSet.load(prior))
    raise MaskLearnError(
        f"There is no prior {prior!r}",
        f"Mask learning starts from one of {', '.join(one_shot)}, or from a masks file.",
        "Name one of these, or give the path of a masks.safetensors.",
    )


def _of_masks(task: Task, masks: MaskSet) -> Iterator[tuple[str, Candidate]]:
    """Yield candidates from the masks of a file. A 2:4 tile scores 0, and a dense one the number of its weights.

    The file has no patterns for dense tiles, so these keep the two largest |w| of each group.
    """
    _check_masks(task, masks)
    for done, name in enumerate(task.coverage.linears, start=1):
        mask = masks[name]
        weight = read_linear(task.checkpoint, name)
        pattern: NDArray[np.uint8] = patterns_from_scores(weight.abs()).numpy()
        pattern[expand_tiles(mask.tiles, mask.shape, mask.tile)] = mask.pattern
        yield name, Candidate(pattern, _score(mask))
        task.progress("reading the prior", done, len(masks))


def _score(mask: LinearMask) -> NDArray[np.float32]:
    return np.where(mask.tiles, 0, tile_weights(mask.shape, mask.tile)).astype(np.float32)


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
