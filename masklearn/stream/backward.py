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

    Register full backward hooks on the linears, then call `finish`, or for single windows `backward` (`loss_backward` on the
    head). They replace `grads[i]` by the gradient with respect to the block's input, which is the previous block's output.
    """

    def __init__(self, part: Part, hidden: HiddenStates, grads: HiddenStates, **flags: bool) -> None:
        super().__init__(part, hidden, **flags)
        self.grads = grads
        self._left = set(range(len(hidden)))

    def backward(self, i: int) -> None:
        """Run window i forward with gradients and backward, once."""
        leaf = self._enter(i)
        with torch.enable_grad():
            torch.autograd.backward(self.run(leaf), self.grads[i])
        self._leave(i, leaf)

    def loss_backward(self, i: int, labels: torch.Tensor) -> float:
        """Run window i through the head, forward and backward, and return its summed next-token loss in nats.

        labels: the window's token ids `[length]`. The head runs in chunks of tokens, because the logits of a whole
        window take too much memory.
        """
        leaf = self._enter(i)
        total = 0.0
        with torch.enable_grad():
            following = labels[1:].to(leaf.device)
            for _, loss in token_losses(self.run, leaf[0, :-1], following):
                torch.autograd.backward(loss)
                total += float(loss.detach())
        self._leave(i, leaf)
        return total

    def finish(self, windows: NDArray[np.int64]) -> None:
        """Run the windows that were not run before, in their order."""
        for i in sorted(self._left):
            if self.is_head:
                self.loss_backward(i, torch.from_numpy(windows[i]))
            else:
                self.backward(i)

    def _enter(self, i: int) -> torch.Tensor:
        self._left.remove(i)
        return self.hidden[i].detach().requires_grad_()

    def _leave(self, i: int, leaf: torch.Tensor) -> None:
        assert leaf.grad is not None
        self.grads[i] = leaf.grad


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

    The weights of each block are read a second time for the backward pass, and `hidden` are its inputs. When the caller
    asks for the next block, the windows that it did not run backward are run. One block and twice the hidden states of all
    windows are in memory.

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
        block.finish(windows)
        part.release()
        back.finish(grads if i else None)
    forward.close()
