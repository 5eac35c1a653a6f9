"""Measures the divergence of pruned models' predictions from the dense model's, with one block of a model in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masklearn.base.progress import OnStep
from masklearn.base.threads import total
from masklearn.model.architectures import architecture_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.logits import HEAD_CHUNK, log_probabilities, token_kl


@torch.no_grad()
def divergences(
    dense: Checkpoint,
    pruned: Sequence[Checkpoint],
    windows: NDArray[np.int64],
    device: str | None,
    progress: OnStep,
    store: Path | None = None,
) -> list[float]:
    """Returns, for each pruned checkpoint, the mean KL(dense ‖ pruned) of the next token over `windows`, in nats.

    For encoders, which predict no tokens, it is ‖h' − h‖² / ‖h‖² of the last hidden states h of the dense and h' of the
    pruned model. Masks must have been applied to the weights. Memory: a block and a head of each of two models, and
    twice the hidden states of all windows; hidden states that do not fit go to the folder `store`.

    windows: token ids `[count, length]`; device: None for CUDA if there is one. Raises MaskLearnError as
    `stream_blocks` does.
    """
    head = not architecture_of(dense).encoder
    models = len(pruned) + 1
    reference = _last(dense, windows, device, store, head=head)
    progress("comparing with the dense model", 1, models)
    found = []
    for done, checkpoint in enumerate(pruned, start=2):
        other = _last(checkpoint, windows, device, store, head=head)
        found.append(_kl(reference, other) if head else _distance(reference, other))
        progress("comparing with the dense model", done, models)
    return found


def _last(
    checkpoint: Checkpoint, windows: NDArray[np.int64], device: str | None, store: Path | None, *, head: bool
) -> Block:
    """Returns the head with its inputs and its weights in memory, or without `head` the last block, advanced."""
    last: Block | None = None
    for last in stream_blocks(checkpoint, windows, device, head=head, store=store):
        if last.is_head:
            break
    assert last is not None
    return last


def _kl(dense: Block, pruned: Block) -> float:
    kl, tokens = 0.0, 0
    for ours, theirs in zip(dense.hidden, pruned.hidden, strict=True):
        for start in range(0, ours.shape[1], HEAD_CHUNK):
            place = slice(start, start + HEAD_CHUNK)
            kl += _kl_of_logits(dense.run(ours[:, place]), pruned.run(theirs[:, place]))
        tokens += ours.shape[0] * ours.shape[1]
    return kl / tokens


def _kl_of_logits(dense: Tensor, pruned: Tensor) -> float:
    log_p, log_q = log_probabilities(dense.float()), log_probabilities(pruned.float())
    return float(token_kl(log_p, log_q).sum(dtype=torch.float64))


def _distance(dense: Block, pruned: Block) -> float:
    apart = sum(
        float(total((a - b).double().square())) for a, b in zip(dense.hidden, pruned.hidden, strict=True)
    )
    return apart / sum(float(total(hidden.double().square())) for hidden in dense.hidden)
