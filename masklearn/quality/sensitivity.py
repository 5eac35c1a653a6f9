"""Measures how the loss changes if one linear at a time takes its weight from another model.

With the dense model as `base` and the pruned model as `other`, this is the cost of pruning only that linear. With the two
exchanged, it is the gain of restoring only that linear. A single pass over the blocks measures all linears, and reads each
block once: from the block that has the changed linear on, a variant's hidden states run in addition to the base's.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.progress import OnStep
from masklearn.model.architectures import architecture_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear
from masklearn.model.rounded_inputs import inputs_kept, inputs_rounded
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.hidden_states import HiddenStates
from masklearn.stream.logits import token_losses


@torch.no_grad()
def sensitivity(
    base: Checkpoint,
    other: Checkpoint,
    linears: Collection[str],
    windows: NDArray[np.int64],
    device: str | None,
    progress: OnStep,
    store: Path | None = None,
) -> dict[str, float]:
    """Returns the change of the mean next-token loss over `windows` `[count, length]`, in nats per token, by linear.

    Masks must have been applied, and channels must be in the same order in both models. Memory: one block, and one copy
    of the hidden states of all windows per linear; hidden states that do not fit go to the folder `store`. Time: for
    each linear, a run through its own block, all later blocks and the head.

    Raises MaskLearnError as `stream_blocks` does, and for an encoder, which has no next-token loss.
    """
    if architecture_of(base).encoder:
        raise MaskLearnError(
            f"{base.path} has no next-token loss",
            "It is an encoder.",
            "Look at the errors of its linears instead.",
        )
    variants: dict[str, HiddenStates] = {}
    losses: dict[str, float] = {}
    plain = 0.0
    for block in stream_blocks(base, windows, device, head=True, store=store):
        own = [name for name in block.linears if name in linears]
        if block.is_head:
            plain = _loss(block, block.hidden, windows)
            for name, hidden in variants.items():
                losses[name] = _loss(block, hidden, windows)
                progress("loss with one linear changed", len(losses), len(linears))
            losses |= {name: _loss_with(block, name, other, windows) for name in own}
            continue
        for hidden in variants.values():
            for i, window in enumerate(hidden):
                hidden[i] = block.run(window)
        for name in own:
            variants[name] = _branch(block, name, other, store)
            progress("running with one linear changed", len(variants), len(linears))
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    return {name: (losses[name] - plain) / tokens for name in linears if name in losses}


def _branch(block: Block, name: str, other: Checkpoint, store: Path | None) -> HiddenStates:
    with _swapped(block, name, other):
        hidden = HiddenStates(block.run(block.hidden[0]), len(block.hidden), store)
        for i in range(1, len(block.hidden)):
            hidden[i] = block.run(block.hidden[i])
    return hidden


def _loss_with(head: Block, name: str, other: Checkpoint, windows: NDArray[np.int64]) -> float:
    with _swapped(head, name, other):
        return _loss(head, head.hidden, windows)


@contextmanager
def _swapped(block: Block, name: str, other: Checkpoint) -> Iterator[None]:
    """Compute with a linear of the other model, which also decides if its inputs are rounded."""
    linear = block.linears[name]
    inputs = inputs_rounded({name: linear}) if name in other.rounded_inputs else inputs_kept(linear)
    kept, linear.weight.data = linear.weight.data, read_linear(other, name).to(linear.weight.device)
    try:
        with inputs:
            yield
    finally:
        linear.weight.data = kept


def _loss(head: Block, hidden: HiddenStates, windows: NDArray[np.int64]) -> float:
    total = 0.0
    for states, window in zip(hidden, windows, strict=True):
        labels = torch.from_numpy(window[1:]).to(states.device)
        total += sum(float(loss) for _, loss in token_losses(head.run, states[0, :-1], labels))
    return total
