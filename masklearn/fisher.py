"""How much the loss depends on each linear's output: the mean squared gradient there (empirical Fisher)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.blocks import Block, stream_blocks_back
from masklearn.task import Task

__all__ = ["output_fisher"]


def output_fisher(
    task: Task, windows: NDArray[np.int64], forward: Callable[[Block], None] | None = None
) -> dict[str, float]:
    """E[g²] by linear: g is the gradient of the summed next-token loss at the linear's output, the mean is over
    tokens and outputs. To second order ½·E[g²]·‖δy‖² is what an output error δy adds to the loss.

    One scalar per linear ranks tiles as well as one per output does (perplexity 58.0 and 58.1 on SmolLM2-135M at
    ratio .35). forward: see `stream_blocks_back`, for statistics that are wanted from the same forward pass.
    """
    covered = task.coverage.linears
    fisher: dict[str, float] = {}
    for block in stream_blocks_back(
        task.checkpoint, windows, task.recipe.device, store=task.activations, forward=forward, bf16=task.bf16
    ):
        linears = {name: linear for name, linear in block.linears.items() if name in covered}
        squares = dict.fromkeys(linears, 0.0)
        hooks = [_watch(name, linear, squares) for name, linear in linears.items()]
        for i, window in enumerate(windows):
            if block.is_head:
                block.loss_backward(i, torch.from_numpy(window))
            else:
                block.backward(i)
        for hook in hooks:
            hook.remove()
        tokens = windows.size
        fisher |= {name: total / (tokens * linears[name].out_features) for name, total in squares.items()}
        task.progress("sensitivity of the loss", len(fisher), len(covered))
    return fisher


def _watch(name: str, linear: torch.nn.Linear, squares: dict[str, float]) -> Any:
    def add(_: torch.nn.Module, __: Any, gradients: tuple[torch.Tensor, ...]) -> None:
        squares[name] += float(gradients[0].double().square().sum())

    return linear.register_full_backward_hook(add)
