"""Empirical Fisher information of each linear's outputs: the mean squared gradients of the loss with respect to them."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.stream.backward import stream_blocks_back
from masklearn.stream.blocks import Block
from masklearn.stream.hooks import watch_gradients
from masklearn.stream.pass_checkpoints import PassCheckpoints
from masklearn.task import Task

__all__ = ["output_fisher"]

_FISHER = "fisher"


def output_fisher(
    task: Task,
    windows: NDArray[np.int64],
    checkpoints: tuple[PassCheckpoints, PassCheckpoints],
    forward: Callable[[Block], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Returns E[g²] `[N]` of each covered linear by name.

    g is the gradient of the summed next-token loss with respect to an output, and the mean is over tokens. To second
    order, output errors δy add ½·Σ E[g²]·δy² to the loss.

    checkpoints, forward: see `stream_blocks_back`; `forward` may collect other statistics in the same forward pass.
    Raises PatchCompileError as `stream_blocks_back` does.
    """
    covered, back = task.coverage.linears, checkpoints[1]
    for block in stream_blocks_back(
        task.checkpoint,
        windows,
        task.recipe.device,
        store=task.activations,
        forward=forward,
        bf16=task.bf16,
        checkpoints=checkpoints,
    ):
        linears = {name: linear for name, linear in block.linears.items() if name in covered}
        squares = {name: torch.zeros(one.out_features, dtype=torch.float64) for name, one in linears.items()}
        with watch_gradients(linears, partial(_add_squares, squares)):
            for i, window in enumerate(windows):
                if block.is_head:
                    block.loss_backward(i, torch.from_numpy(window))
                else:
                    block.backward(i)
        for name, total in squares.items():
            back.add(name, {_FISHER: (total / windows.size).numpy()})
        task.progress("sensitivity of the loss", len(back.results) + len(squares), len(covered))
    return {name: arrays[_FISHER] for name, arrays in back.results.items()}


def _add_squares(squares: dict[str, torch.Tensor], name: str, gradient: torch.Tensor) -> None:
    squares[name] += gradient.double().flatten(0, -2).square().sum(dim=0).cpu()
