"""Runs a model forward and then backward, block by block, with the weights of one block in memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.base.device import usable_device
from masklearn.model.checkpoint import Checkpoint
from masklearn.stream.blocks import Block, BlockModel, Part, check_has_loss
from masklearn.stream.hidden_states import HiddenStates, PassCheckpoints, check_space
from masklearn.stream.logits import token_losses

_KEPT_BYTES = 1 << 30  # the inputs of all blocks stay in memory up to this size, and go to files above it


class BackwardBlock(Block):
    """A block in the backward pass: `grads[i]` is the gradient of window i's loss with respect to the block's output.

    Register full backward hooks on the linears, then call `backward` (`loss_backward` on the head) for every window.
    Both replace `grads[i]` by the gradient with respect to the block's input, which is the previous block's output.
    """

    def __init__(self, part: Part, hidden: HiddenStates, grads: HiddenStates, **flags: bool) -> None:
        super().__init__(part, hidden, **flags)
        self.grads = grads
        self._left = set(range(len(hidden)))

    def backward(self, i: int) -> None:
        """Run window i forward with gradients and backward. Raises RuntimeError at a window's second call."""
        leaf = self._enter(i)
        with torch.enable_grad():
            torch.autograd.backward(self.run(leaf), self.grads[i])
        self._leave(i, leaf)

    def loss_backward(self, i: int, labels: torch.Tensor) -> float:
        """Run window i through the head, forward and backward, and return its summed next-token loss in nats.

        labels: the window's token ids `[length]`. The head runs in chunks of tokens, because the logits of a whole
        window take too much memory. Raises RuntimeError at a window's second call.
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

    def advance(self) -> None:
        """Raises RuntimeError: a block in the backward pass has no next block."""
        raise RuntimeError("the block runs backward")

    def finish(self, windows: NDArray[np.int64]) -> None:
        """Run the windows that the caller did not run."""
        for i in sorted(self._left):
            if self.is_head:
                self.loss_backward(i, torch.from_numpy(windows[i]))
            else:
                self.backward(i)

    def _enter(self, i: int) -> torch.Tensor:
        if i not in self._left:
            raise RuntimeError(f"window {i} has gone back through the block: its gradient is gone")
        return self.hidden[i].detach().requires_grad_()

    def _leave(self, i: int, leaf: torch.Tensor) -> None:
        assert leaf.grad is not None
        self.grads[i] = leaf.grad
        self._left.remove(i)


def stream_blocks_back(
    checkpoint: Checkpoint,
    windows: NDArray[np.int64],
    device: str | None = None,
    *,
    store: Path | None = None,
    bf16: bool = False,
    checkpoints: tuple[PassCheckpoints, PassCheckpoints] | None = None,
) -> Iterator[BackwardBlock]:
    """Run forward through all blocks, then yield the head and the blocks from last to first, for gradients.

    The weights of each block are read a second time for the backward pass, and `hidden` are its inputs. When the caller
    asks for the next block, the windows that it did not run backward are run.

    The inputs of every block are kept in fp32: in memory up to 1 GiB in total, else in one file per block in `store`
    (None for the system's temporary folder). Besides them one block and twice the hidden states of all windows are in
    memory.

    checkpoints: of the forward pass, which keep the states of all blocks, and of the backward pass: they are saved after
    each block, and an interrupted pass resumes from them.

    Raises MaskLearnError as `stream_blocks` does, and if the model is an encoder, which has no loss, or the files do
    not fit on the disk.
    """
    check_has_loss(checkpoint)
    on = usable_device(device)
    model = BlockModel(checkpoint, windows, on, store)
    assert model.tail is not None
    if checkpoints is not None:
        yield from _saved_back(model, windows, on, checkpoints, store, bf16=bf16)
        return
    kept = _KeptInputs(model.hidden, len(model.blocks), store)
    for i, part in enumerate(model.blocks):
        kept.put(i, model.hidden)
        _run_forward(part, model.hidden, on, bf16=bf16)
    grads = HiddenStates(model.hidden[0], len(windows), store)
    yield from _backward_block(model.tail, model.hidden, grads, windows, on, is_head=True, bf16=bf16)
    model.hidden.clear()
    for i, part in reversed(list(enumerate(model.blocks))):
        yield from _backward_block(part, kept.take(i), grads, windows, on, bf16=bf16)


def _saved_back(
    model: BlockModel,
    windows: NDArray[np.int64],
    device: torch.device,
    checkpoints: tuple[PassCheckpoints, PassCheckpoints],
    store: Path | None,
    *,
    bf16: bool,
) -> Iterator[BackwardBlock]:
    """Do the work of `stream_blocks_back` with checkpoints, whose files hold the inputs of every block."""
    ahead, back = checkpoints
    for part in model.blocks[ahead.start(model.hidden, len(model.blocks)) :]:
        _run_forward(part, model.hidden, device, bf16=bf16)
        ahead.finish(model.hidden)
    assert model.tail is not None
    parts = [*enumerate(model.blocks), (len(model.blocks), model.tail)][::-1]
    grads = HiddenStates(model.hidden[0], len(windows), store)
    for i, part in parts[back.start(grads, len(parts)) :]:
        ahead.load(i, model.hidden)
        is_head = part is model.tail
        yield from _backward_block(part, model.hidden, grads, windows, device, is_head=is_head, bf16=bf16)
        back.finish(grads if i else None)
    ahead.close()


def _run_forward(part: Part, hidden: HiddenStates, device: torch.device, *, bf16: bool) -> None:
    part.load(device)
    Block(part, hidden, bf16=bf16).advance()
    part.release()


def _backward_block(
    part: Part,
    hidden: HiddenStates,
    grads: HiddenStates,
    windows: NDArray[np.int64],
    device: torch.device,
    **flags: bool,
) -> Iterator[BackwardBlock]:
    part.load(device)
    block = BackwardBlock(part, hidden, grads, **flags)
    yield block
    block.finish(windows)
    part.release()


class _KeptInputs:
    """Keeps the inputs of every block for the backward pass, in memory or in files."""

    def __init__(self, hidden: HiddenStates, blocks: int, store: Path | None) -> None:
        size = hidden[0].nbytes * len(hidden) * blocks
        self._store = store
        self._on_disk = size > _KEPT_BYTES
        self._inputs: dict[int, HiddenStates] = {}
        if self._on_disk:
            check_space(size, store)

    def put(self, block: int, hidden: HiddenStates) -> None:
        """Keep a copy of a block's inputs."""
        kept = HiddenStates(hidden[0], len(hidden), self._store, on_disk=self._on_disk or None)
        for i, window in enumerate(hidden):
            kept[i] = window
        self._inputs[block] = kept

    def take(self, block: int) -> HiddenStates:
        return self._inputs.pop(block)
