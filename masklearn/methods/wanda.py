"""Wanda (arXiv 2306.11695): a weight counts |w|·‖x‖₂, with x its input feature over the calibration text."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from masklearn.blocks import Block, stream_blocks
from masklearn.methods.candidate import Candidate, register
from masklearn.methods.relative import candidate_from_importance
from masklearn.recipe import Method
from masklearn.task import Task

__all__ = ["learn_wanda", "squared_input_norms"]


@register(Method.WANDA)
def learn_wanda(task: Task) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear, block by block, one block in memory.

    The norms are those of the dense model: which tiles become 2:4 is known only when every block is scored, and
    inputs that come out of wholly 2:4 blocks are further from the final model's than the dense ones. The sum of
    (|w|·‖x‖)² is the squared output error if features were uncorrelated, so it adds up over a tile.
    """
    linears, done = task.coverage.linears, 0
    for block in stream_blocks(
        task.checkpoint,
        task.text.calibration(),
        task.recipe.device,
        only=linears,
        store=task.activations,
    ):
        covered = {name: linear for name, linear in block.linears.items() if name in linears}
        norms = squared_input_norms(block, covered)
        for name, linear in covered.items():
            yield name, candidate_from_importance(linear.weight.square() * norms[name], task.recipe.tile)
        done += len(covered)
        task.progress("scoring", done, len(linears))


def squared_input_norms(block: Block, linears: Mapping[str, torch.nn.Linear]) -> dict[str, torch.Tensor]:
    """Advance the block; returns ‖x‖² of every input feature over all tokens, fp32 `[K]` by linear."""
    sums = {
        name: torch.zeros(linear.in_features, dtype=torch.float64, device=linear.weight.device)
        for name, linear in linears.items()
    }

    def watch(name: str) -> Any:
        def add(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            sums[name] += inputs[0].flatten(0, -2).square().sum(dim=0)

        return linears[name].register_forward_pre_hook(add)

    hooks = [watch(name) for name in linears]
    try:
        block.advance()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total.float() for name, total in sums.items()}
