"""Surviving weights solved for the final masks, block by block on what the pruned blocks before pass on."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.checkpoint.linears import write_linear
from masklearn.checkpoint.store import WeightStore
from masklearn.masks.tiles import expand_tiles
from masklearn.recipe import Method
from masklearn.solvers import alps, obs
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.moments import input_moments, output_energy
from masklearn.task import Task

__all__ = ["solve", "solve_unstructured"]

# Weights [N, K] by name of linears that share their inputs, and XᵀX of these, to new weights.
_Prune = Callable[[Mapping[str, torch.Tensor], torch.Tensor], Mapping[str, torch.Tensor]]


def solve(
    task: Task,
    tiles: Mapping[str, NDArray[np.bool_]],
    store: WeightStore,
    patterns: Mapping[str, NDArray[np.uint8]] | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Solve under given tile maps; new weights go to `store`, patterns `[N, K/4]` of every group come back.

    By SparseGPT where that is the recipe's method, by ALPS for all others. patterns: 2:4 patterns to keep to; None
    lets each be chosen where its error is made. Sequential, as SparseGPT's code: a block's Hessians come from the
    outputs of the pruned blocks before it. In memory are one block, the hidden states of the calibration windows, the
    block's Hessians and a byte per 4 weights. PatchCompileError: see `obs.with_damping` and `stream_blocks`.
    """
    recipe, chosen = task.recipe, dict[str, NDArray[np.uint8]]()

    def groups(name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        sparse = expand_tiles(tiles[name], task.coverage.linears[name], recipe.tile)
        given = None if patterns is None else torch.from_numpy(patterns[name]).to(device)
        return torch.from_numpy(sparse).to(device), given

    def by_sparsegpt(weights: Mapping[str, torch.Tensor], moment: torch.Tensor) -> dict[str, torch.Tensor]:
        factor = obs.inverse_factor(moment.clone(), recipe.damping, next(iter(weights)), task.note)
        found = {}
        for name, weight in weights.items():
            solved = obs.solve_linear(weight, factor, *groups(name, weight.device))
            found[name], chosen[name] = solved.weight, solved.patterns.cpu().numpy()
        return found

    def by_alps(weights: Mapping[str, torch.Tensor], moment: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = [len(weight) for weight in weights.values()]
        sparse, given = zip(*(groups(name, moment.device) for name in weights), strict=True)
        values, codes = alps.solve_rows(
            torch.cat(list(weights.values())),
            moment,
            recipe.damping,
            next(iter(weights)),
            task.note,
            torch.cat(sparse),
            None if patterns is None else torch.cat(given),
        )
        parts = (part.cpu().numpy() for part in torch.split(codes, rows))
        chosen.update(zip(weights, parts, strict=True))
        return dict(zip(weights, torch.split(values, rows), strict=True))

    _sequential(task, store, by_sparsegpt if recipe.method is Method.SPARSEGPT else by_alps)
    return chosen


def solve_unstructured(task: Task, ratio: float, store: WeightStore) -> None:
    """SparseGPT without structure, `ratio` of every linear: a reference for quality that no kernel runs fast."""

    def prune(weights: Mapping[str, torch.Tensor], moment: torch.Tensor) -> dict[str, torch.Tensor]:
        factor = obs.inverse_factor(moment.clone(), task.recipe.damping, next(iter(weights)), task.note)
        return {name: obs.solve_unstructured(weight, factor, ratio) for name, weight in weights.items()}

    _sequential(task, store, prune)


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
    errors = []
    for names in _sharing(moments):
        moment = moments[names[0]]
        weights = {name: linears[name].weight.data for name in names}
        for name, pruned in prune(weights, moment).items():
            energy = output_energy(weights[name], moment)
            errors.append(output_energy(weights[name] - pruned, moment) / (energy or 1.0))
            weights[name].copy_(pruned)
            write_linear(store, task.checkpoint, name, pruned)
        for name in names:
            del moments[name]
    return float(np.mean(errors)) if errors else 0.0


def _sharing(moments: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Names of the linears of each moment: q, k and v, for example."""
    groups: dict[int, list[str]] = {}
    for name, moment in moments.items():
        groups.setdefault(id(moment), []).append(name)
    return list(groups.values())
