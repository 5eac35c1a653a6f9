"""Surviving weights solved for the final masks, block by block on what the pruned blocks before pass on."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn import obs
from masklearn.blocks import Block, stream_blocks
from masklearn.linears import write_linear
from masklearn.moments import input_moments, output_energy
from masklearn.task import Task
from masklearn.tiles import expand_tiles
from masklearn.weights import WeightStore

__all__ = ["solve", "solve_unstructured"]

# (name, weight [N, K], factor) to the new weight
_Prune = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]


def solve(
    task: Task,
    tiles: Mapping[str, NDArray[np.bool_]],
    store: WeightStore,
    patterns: Mapping[str, NDArray[np.uint8]] | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """SparseGPT under given tile maps; new weights go to `store`, patterns `[N, K/4]` of every group come back.

    patterns: 2:4 patterns to keep to; None lets each be chosen where its error is made. Sequential, as the authors'
    code: a block's Hessians come from the outputs of the pruned blocks before it. In memory are one block, the
    hidden states of the calibration windows, the block's Hessians and a byte per 4 weights. PatchCompileError: see
    `obs.inverse_factor` and `stream_blocks`.
    """
    chosen: dict[str, NDArray[np.uint8]] = {}

    def prune(name: str, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        shape = task.coverage.linears[name]
        sparse = torch.from_numpy(expand_tiles(tiles[name], shape, task.recipe.tile)).to(weight.device)
        given = None if patterns is None else torch.from_numpy(patterns[name]).to(weight.device)
        solved = obs.solve_linear(weight, factor, sparse, given)
        chosen[name] = solved.patterns.cpu().numpy()
        return solved.weight

    _sequential(task, store, prune)
    return chosen


def solve_unstructured(task: Task, ratio: float, store: WeightStore) -> None:
    """SparseGPT without structure, `ratio` of every linear: a reference for quality that no kernel runs fast."""
    _sequential(task, store, lambda _, weight, factor: obs.solve_unstructured(weight, factor, ratio))


def _sequential(task: Task, store: WeightStore, prune: _Prune) -> None:
    covered, done = task.coverage.linears, 0
    for block in stream_blocks(
        task.checkpoint,
        task.text.calibration(),
        task.recipe.device,
        only=list(covered),
        store=task.activations,
        bf16=task.bf16,
    ):
        linears = {name: linear for name, linear in block.linears.items() if name in covered}
        error = _solve_block(task, store, prune, block, linears)
        done += len(linears)
        task.progress(f"solving, output error {error:.3f}", done, len(covered))
        block.advance()


def _solve_block(
    task: Task, store: WeightStore, prune: _Prune, block: Block, linears: Mapping[str, torch.nn.Linear]
) -> float:
    """Replace the block's weights; returns the linears' mean relative squared output error."""
    moments = input_moments(linears, block.forward)
    factors = obs.inverse_factors(moments, task.recipe.damping, task.note)
    errors = []
    for name, linear in linears.items():
        weight = prune(name, linear.weight.data, factors[name])
        energy = output_energy(linear.weight.data, moments[name])
        errors.append(output_energy(linear.weight.data - weight, moments[name]) / (energy or 1.0))
        linear.weight.data.copy_(weight)
        write_linear(store, task.checkpoint, name, weight)
    return float(np.mean(errors)) if errors else 0.0
