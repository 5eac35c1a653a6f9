"""Masks for the linears of an ONNX model, and new weights to go with them, from weights and input moments alone.

The methods are those of `masklearn` that need no gradients and no text: `magnitude` (weights alone), and with calibration
inputs `wanda`, `sparsegpt` and `oneshot`. Tiles are scored on the dense model's inputs and chosen over all linears
together; `oneshot` then solves patterns and weights of the final tiles by ALPS, `sparsegpt` by SparseGPT, on the same
inputs: unlike the checkpoint path, which sends what the pruned blocks before pass on.

`oneshot`, ranked by error relative to the output's energy, is the default since it lost least: SmolLM2-135M as an fp16 ONNX
file, every third block at ratio .35 in tiles of 64×64, 16 windows of 256 tokens; perplexity on 8 others (dense 15.7) and
relative error of the logits: magnitude 35.7 and .54, wanda 22.7 and .42, sparsegpt 22.1 and .36, oneshot 21.2 and .33;
ranked by raw error, oneshot has 22.1 and .42.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.store import WeightStore
from masklearn.masks.budget import Budget
from masklearn.masks.maskset import LinearMask
from masklearn.masks.select import select
from masklearn.masks.tiles import expand_tiles, tile_sums, tile_weights
from masklearn.methods.candidate import Candidate
from masklearn.recipe import Criterion, LearnRecipe, Method
from masklearn.shard import TensorEntry
from patch_compile.sources.onnx_model.linears import OnnxLinear
from patch_compile.sources.onnx_model.moments import Moments
from patch_compile.sources.onnx_model.weights import read_weight

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

__all__ = ["METHODS", "SOLVING", "OnnxTask", "learn_onnx"]

SOLVING = (Method.ONESHOT, Method.SPARSEGPT)  # give new weights
METHODS = (Method.MAGNITUDE, Method.WANDA, *SOLVING)


@dataclass(frozen=True)
class OnnxTask:
    """What learning works on. moments: None for magnitude; store: where new weights go; dtype: of the packed weights."""

    linears: Mapping[str, OnnxLinear]
    moments: Moments | None
    recipe: LearnRecipe
    store: WeightStore
    dtype: ir.DataType
    progress: Callable[[str, int, int], object]
    note: Callable[[str], object]

    @cached_property
    def device(self) -> torch.device:
        """Where scores and weights are computed."""
        from masklearn.device import usable_device

        return usable_device(self.recipe.device)

    def weight(self, name: str) -> torch.Tensor:
        """W of a linear, fp32 `[N, K]`."""
        import torch

        return torch.from_numpy(read_weight(self.linears[name], self.dtype)).to(self.device)

    def moment(self, name: str) -> torch.Tensor:
        """XᵀX of a linear, fp32 `[K, K]`."""
        import torch

        assert self.moments is not None
        return torch.from_numpy(self.moments.read(name)).to(self.device)

    def keep(self, name: str, weight: torch.Tensor) -> None:
        """Enter new values, rounded to the type they are packed in."""
        code = {"FLOAT16": "F16", "BFLOAT16": "BF16"}[self.dtype.name]
        self.store.put(name, weight, TensorEntry(code, tuple(weight.shape), 0, 0))


def learn_onnx(task: OnnxTask) -> dict[str, LinearMask]:
    """The hybrid mask of every linear; new weights `[N, K]`, not masked yet, go to the task's store.

    Raises PatchCompileError for a weight that is damaged or does not fit the type, a ratio that fits no linear, and inputs
    whose moments can't be solved (`masklearn.solvers.obs.with_damping`).
    """
    recipe = task.recipe
    budget = Budget.of(recipe.ratio, recipe.per_layer)
    if left_dense := budget.left_dense(list(task.linears)):
        task.note(left_dense)
    patterns: dict[str, NDArray[np.uint8]] = {}
    scores: dict[str, NDArray[np.float32]] = {}
    for done, name in enumerate(task.linears, start=1):
        candidate = _candidate(task, name)
        patterns[name], scores[name] = candidate.pattern, candidate.score
        task.progress("scoring", done, len(task.linears))
    areas = {name: tile_weights(linear.shape, recipe.tile) for name, linear in task.linears.items()}
    tiles = select(scores, areas, budget)
    if recipe.method in SOLVING:
        patterns |= _solved(task, tiles)
    return {
        name: LinearMask.from_candidate(recipe.tile, tiles[name], patterns.pop(name)) for name in task.linears
    }


def _candidate(task: OnnxTask, name: str) -> Candidate:
    from masklearn.methods.scores.importance import candidate_from_importance

    weight, method = task.weight(name), task.recipe.method
    if method is Method.MAGNITUDE:
        return candidate_from_importance(weight.square(), task.recipe.tile)
    moment = task.moment(name)
    if method is Method.WANDA:
        return candidate_from_importance(weight.square() * moment.diagonal(), task.recipe.tile)
    return _by_output_error(task, name, weight, moment)


def _by_output_error(task: OnnxTask, name: str, weight: torch.Tensor, moment: torch.Tensor) -> Candidate:
    """Scores as `masklearn.methods.oneshot` has them: SparseGPT's error in each tile, as a share of the output's energy."""
    from masklearn.solvers import obs
    from masklearn.stream.moments import output_energy

    factor = obs.inverse_factor(moment.clone(), task.recipe.damping, name, task.note)
    solved = obs.solve_linear(weight, factor)
    error = tile_sums(solved.loss.cpu().numpy(), task.recipe.tile)
    scale = 1.0 if task.recipe.criterion is Criterion.RAW else output_energy(weight, moment)
    return Candidate(solved.patterns.cpu().numpy(), error / np.float32(scale or 1.0))


def _solved(task: OnnxTask, tiles: Mapping[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.uint8]]:
    """Patterns of the linears that have 2:4 tiles, whose new weights are kept."""
    import torch

    sparse = [name for name in task.linears if tiles[name].any()]
    patterns = {}
    for done, name in enumerate(sparse, start=1):
        groups = expand_tiles(tiles[name], task.linears[name].shape, task.recipe.tile)
        values, codes = _solve(task, name, torch.from_numpy(groups).to(task.device))
        task.keep(name, values)
        patterns[name] = codes.cpu().numpy()
        task.progress("solving", done, len(sparse))
    return patterns


def _solve(task: OnnxTask, name: str, sparse: torch.Tensor) -> tuple[torch.Tensor, Any]:
    from masklearn.solvers import alps, obs

    weight, moment, damping = task.weight(name), task.moment(name), task.recipe.damping
    if task.recipe.method is Method.ONESHOT:
        return alps.solve_rows(weight, moment, damping, name, task.note, sparse)
    factor = obs.inverse_factor(moment, damping, name, task.note)
    solved = obs.solve_linear(weight, factor, sparse)
    return solved.weight, solved.patterns
