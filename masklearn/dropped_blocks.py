"""Depth pruning: drops whole blocks of a decoder, chosen by how little they change the hidden states.

Block influence is 1 minus the mean cosine between a block's input and output (ShortGPT, arXiv 2403.03853, equation 1). All
blocks are ranked in one pass over the dense model.
"""

import torch
from torch.nn.functional import cosine_similarity

from masklearn.base.errors import DoesNotApply
from masklearn.masks.name_globs import depth_of
from masklearn.model.store import WeightStore
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.task import Task


def drop_blocks(task: Task, ratio: float, store: WeightStore) -> float:
    """Store zeros for the linears of the blocks that change the hidden states least, so that they return their inputs.

    ratio: least share of the covered weights that the dropped blocks hold. Returns the reached share.

    Raises MaskLearnError as `stream_blocks` does, and DoesNotApply for a quantised checkpoint, and if a block without its
    linears changes its inputs.
    """
    if task.checkpoint.quantised:
        raise _cannot_drop(task, "Its blocks are quantised, and only 16-bit blocks are set to zero.")
    count = len({depth_of(name) for name in task.coverage.linears} - {None})
    influence: list[float] = []
    tensors: list[list[str]] = []
    weights: list[int] = []
    blocks = stream_blocks(
        task.checkpoint, task.text.calibration(), task.recipe.device, store=task.activations, bf16=task.bf16
    )
    for block in blocks:
        own = [block.tensor_names(linear) for linear in block.linears.values()]
        tensors.append([name for names in own for name in names.values()])
        covered = (task.coverage.linears[name] for name in block.linears if name in task.coverage.linears)
        weights.append(sum(n * k for n, k in covered))
        influence.append(_advance(task, block))
        task.progress("block influence", len(influence), max(count, len(influence)))
    dropped = 0
    for i in sorted(range(len(influence)), key=influence.__getitem__):
        if dropped >= ratio * sum(weights):
            break
        dropped += weights[i]
        for name in tensors[i]:
            entry = task.checkpoint.entry(name)
            store.put(name, torch.zeros(entry.shape), entry)
    return dropped / sum(weights)


@torch.no_grad()
def _advance(task: Task, block: Block) -> float:
    """Run every window through the block, and return its influence."""
    first = block.hidden[0].clone()
    changes = []
    for i, hidden in enumerate(block.hidden):
        output = block.run(hidden)
        changes.append(1.0 - float(cosine_similarity(hidden, output, dim=-1).mean()))
        block.hidden[i] = output
    block.advanced = True
    for linear in block.linears.values():
        for parameter in linear.parameters():
            parameter.zero_()
    if not torch.equal(block.run(first), first):
        raise _cannot_drop(task, "A block whose linears are zero changes its inputs.")
    return sum(changes) / len(changes)


def _cannot_drop(task: Task, why: str) -> DoesNotApply:
    return DoesNotApply(f"Blocks of {task.checkpoint.path} can't be dropped", why)
