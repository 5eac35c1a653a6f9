"""Finds out, by a short pass over the dense model, if float16 holds its activations and weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masklearn.model.checkpoint import Checkpoint
from masklearn.stream.blocks import stream_blocks
from masklearn.stream.logits import watch_calls

LARGEST = 65504  # of float16
OVERFLOWS = 65520.0  # the smallest number that float16 rounds to infinity


@dataclass(frozen=True)
class Float16Fit:
    """Counts of the values of a model that float16 does not hold.

    overflow: the first place, in the order of the model, with an activation that becomes infinite, and the largest
    |activation| there, infinite or NaN if fp32 does not hold it either; None if all are held. vanished: number of weights
    of linears that become 0; linears: number of linears that they belong to; largest: the largest |weight| of them.
    """

    overflow: tuple[str, float] | None = None
    vanished: int = 0
    linears: int = 0
    largest: float = 0.0


def float16_fit(checkpoint: Checkpoint, tokens: Sequence[int], device: str | None = None) -> Float16Fit:
    """Returns the counts for a few tokens that run through the dense model in fp32, one block in memory at a time.

    It looks at the inputs and outputs of linears, at the outputs of blocks, and at the weights of linears. Raises
    MaskLearnError as `stream_blocks` does.
    """
    overflow: list[tuple[str, float]] = []
    vanished: list[tuple[int, float]] = []

    def see(name: str, x: Tensor, y: Tensor) -> None:
        look(f"the input of {name}", x)
        look(f"the output of {name}", y)

    def look(where: str, values: Tensor) -> None:
        largest = float(values.abs().amax()) if values.numel() else 0.0  # an expert may get no token
        if not largest < OVERFLOWS:  # also for NaN
            overflow.append((where, largest))

    head = not checkpoint.architecture.encoder
    window = np.array([tokens], np.int64)
    for number, block in enumerate(stream_blocks(checkpoint, window, device, head=head)):
        vanished += [_vanished(linear.weight) for linear in block.linears.values()]
        with watch_calls(block.linears, see):
            block.advance()
        if not block.is_head:
            look(f"the output of block {number}", block.hidden[0])
        if overflow:
            break
    return Float16Fit(
        overflow[0] if overflow else None,
        sum(count for count, _ in vanished),
        sum(count > 0 for count, _ in vanished),
        max((largest for _, largest in vanished), default=0.0),
    )


@torch.no_grad()
def _vanished(weight: Tensor) -> tuple[int, float]:
    """Returns the number of weights that float16 rounds to 0, and the largest |weight| of them."""
    lost = weight.abs()[(weight != 0) & (weight.half() == 0)]
    return lost.numel(), float(lost.amax()) if lost.numel() else 0.0
