"""Runs a model forward and then backward, block by block, with the weights of one block in memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.base.device import usable_device
from masklearn.model.checkpoint import Checkpoint
from masklearn.stream.blocks import Block, BlockModel, Part, check_has_loss
from masklearn.stream.hidden_states import HiddenStates, PassCheckpoints
from masklearn.stream.logits import token_losses


class BackwardBlock(Block):
    """A block in the backward pass: `grads[i]` is the gradient of window i's loss with respect to the block's output.

    Register full backward hooks on the linears, then call `backward` for every window.
    """

    def __init__(self, part: Part, hidden: HiddenStates, grads: HiddenStates, **flags: bool) -> None:
        super().__init__(part, hidden, **flags)
        self.grads = grads
        self.left = set(range(len(hidden)))

    def backward(self, i: int, window: NDArray[np.int64]) -> float:
        """Run window i forward with gradients and backward, once. The head returns its summed next-token loss in nats.

        It replaces `grads[i]` by the gradient with respect to the block's input, which is the previous block's output.
        window: its token ids `[length]`. The head runs in chunks of tokens, because the logits of a whole window take too
        much memory.
        """
        self.left.remove(i)
        leaf, total = self.hidden[i].detach().requires_grad_(), 0.0
        with torch.enable_grad():
            if self.is_head:
                following = torch.from_numpy(window)[1:].to(leaf.device)
                for _, loss in token_losses(self.run, leaf[0, :-1], following):
                    torch.autograd.backward(loss)
                    total += float(loss.detach())
            else:
                torch.autograd.backward(self.run(leaf), self.grads[i])
        assert leaf.grad is not None
        self.grads[i] = leaf.grad
        return total


def stream_blocks_back(
    checkpoint: Checkpoint,
    windows: NDArray[np.int64],
    device: str | None,
    *,
    store: Path | None,
    bf16: bool,
    checkpoints: tuple[PassCheckpoints, PassCheckpoints],
) -> Iterator[BackwardBlock]:
    """Run forward through all blocks, then yield the head and the blocks from last to first, for gradients.

    The weights of each block are read a second time for the backward pass, and `hidden` are its inputs. The caller runs all
    windows of a block before it asks for the next block. One block and twice the hidden states of all windows are in memory.

    checkpoints: of the forward pass, which keep the inputs of all blocks, and of the backward pass: they are saved after
    each block, and an interrupted pass resumes from them.

    Raises MaskLearnError as `stream_blocks` does, and if the model is an encoder, which has no loss, or the files do
    not fit on the disk.
    """
    check_has_loss(checkpoint)
    on = usable_device(device)
    model = BlockModel(checkpoint, windows, on, store)
    forward, back = checkpoints
    for part in model.blocks[forward.start(model.hidden, len(model.blocks)) :]:
        part.load(on)
        Block(part, model.hidden, bf16=bf16).advance()
        part.release()
        forward.finish(model.hidden)
    assert model.tail is not None
    parts = [*enumerate(model.blocks), (len(model.blocks), model.tail)][::-1]
    grads = HiddenStates(model.hidden[0], len(windows), store)
    for i, part in parts[back.start(grads, len(parts)) :]:
        forward.load(i, model.hidden)
        part.load(on)
        block = BackwardBlock(part, model.hidden, grads, is_head=part is model.tail, bf16=bf16)
        yield block
        assert not block.left, "windows were not run backward"
        part.release()
        back.finish(grads if i else None)
    forward.close()
