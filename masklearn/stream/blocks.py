"""A model run block by block over calibration windows, with the weights of one block in memory."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.checkpoint.architectures import architecture_of
from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.device import usable_device
from masklearn.errors import PatchCompileError
from masklearn.stream.block_parts import BlockModel, Part
from masklearn.stream.hidden_states import HiddenStates, check_space
from masklearn.stream.logits import token_losses

__all__ = ["BackwardBlock", "Block", "stream_blocks", "stream_blocks_back"]

_KEPT_BYTES = 1 << 30  # inputs of all blocks up to this size stay in memory, more go to files


class Block:
    """One block with its weights in memory, and the hidden states of all windows that enter it.

    module: the block, fp32, on the run's device; linears: its `nn.Linear`s by checkpoint name (weights [N, K],
    whatever the checkpoint's layout); hidden: its inputs, `[1, length, hidden]` each window; call: keyword
    arguments of the block besides the hidden states; is_head: it is the final norm and the output head, and gives
    logits. Register forward hooks on the linears, then call `forward` or `advance`.
    """

    def __init__(
        self, part: Part, hidden: HiddenStates, *, is_head: bool = False, bf16: bool = False
    ) -> None:
        self.module = part.module
        self.linears = part.linears
        self.hidden = hidden
        self.call: Mapping[str, Any] = part.call
        self.is_head = is_head
        self._bf16 = bf16
        self.advanced = False

    def run(self, hidden: torch.Tensor) -> torch.Tensor:
        """The block's output for `hidden` `[1, length, hidden]`; differentiable where the caller enables that."""
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=self._bf16):
            output = self.module(hidden, **self.call)
        return output if isinstance(output, torch.Tensor) else output[0]

    @torch.no_grad()
    def forward(self) -> None:
        """Run every window through the block for its hooks' sake; the outputs are dropped."""
        for hidden in self.hidden:
            self.run(hidden)

    @torch.no_grad()
    def advance(self) -> None:
        """Run every window through the block; the outputs enter the next one. Once only."""
        if self.advanced:
            raise RuntimeError("the block has been advanced: its inputs are gone")
        for i, hidden in enumerate(self.hidden):
            output = self.run(hidden)
            if not self.is_head:  # logits of all windows would be far larger than anything else here
                self.hidden[i] = output
        self.advanced = True


class BackwardBlock(Block):
    """A block on the way back: `grads[i]` is the gradient of window i's loss at the block's output.

    Register full backward hooks on the linears, then call `backward` for every window, `loss_backward` on the
    head. Either puts the gradient at the block's input in `grads[i]`, for the block before it.
    """

    def __init__(self, part: Part, hidden: HiddenStates, grads: HiddenStates, **kind: bool) -> None:
        super().__init__(part, hidden, **kind)
        self.grads = grads
        self._left = set(range(len(hidden)))

    def backward(self, i: int) -> None:
        """Run window i again, with gradients, and back through the block. Once for each window."""
        leaf = self._enter(i)
        with torch.enable_grad():
            torch.autograd.backward(self.run(leaf), self.grads[i])
        self._leave(i, leaf)

    def loss_backward(self, i: int, labels: torch.Tensor) -> float:
        """The summed loss of window i in nats, from its token ids `labels` `[length]`: each is predicted from those
        before it. Goes back through the head in chunks. Once for each window.
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
        """No block follows on the way back."""
        raise RuntimeError("the block runs backward")

    def finish(self, windows: NDArray[np.int64]) -> None:
        """Run the windows that the caller left out."""
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


def stream_blocks(
    checkpoint: Checkpoint,
    windows: NDArray[np.int64],
    device: str | None = None,
    only: Collection[str] | None = None,
    *,
    head: bool = False,
    store: Path | None = None,
    bf16: bool = False,
) -> Iterator[Block]:
    """Yield the model's blocks in order, each with its weights read from the checkpoint in fp32.

    A block that the caller did not advance is advanced when the next one is asked for; its memory is then given
    back. windows: `[count, length]` token ids; device: None for CUDA when there is one; only: the linears that are
    wanted: blocks after the last of them are not run, and if the output head is among them a last block of final
    norm and head follows; head: it follows in any case; store: a folder for hidden states that do not fit in memory,
    None for a temporary one; bf16: linears compute in bf16, under autocast. Memory: one block (at first the
    embedding) and the hidden states of all windows (see `HiddenStates`). PatchCompileError when a weight is missing,
    misshapen, or holds NaN or infinity, when the windows do not fit the model, or when an encoder is asked for its
    head.
    """
    if head:
        _check_has_loss(checkpoint)
    on = usable_device(device)
    model = BlockModel(checkpoint, windows, on, store)
    for part in model.needed(only, head=head):
        part.load(on)
        block = Block(part, model.hidden, is_head=part is model.tail, bf16=bf16)
        yield block
        if not block.advanced:
            block.advance()
        part.release()


def stream_blocks_back(
    checkpoint: Checkpoint,
    windows: NDArray[np.int64],
    device: str | None = None,
    *,
    store: Path | None = None,
    forward: Callable[[Block], None] | None = None,
    bf16: bool = False,
) -> Iterator[BackwardBlock]:
    """Run forward through all blocks, then yield the head and the blocks from last to first, for gradients.

    forward: called with each block (without the head) on the way there; it may register hooks, and calls
    `block.advance()` or leaves that to the stream. On the way back every block has its weights read again, and
    `hidden` are its inputs; windows that the caller did not run backward are run when the next block is asked for.

    The inputs of every block are kept in fp32: in memory while all of them together take up to 1 GiB, else in a file
    a block in `store` (None for the system's temporary folder). Memory otherwise: one block, and two times the hidden
    states of all windows. PatchCompileError as `stream_blocks`, and when an encoder has no loss to go back from or
    the files do not fit.
    """
    _check_has_loss(checkpoint)
    on = usable_device(device)
    model = BlockModel(checkpoint, windows, on, store)
    kept = _KeptInputs(model.hidden, len(model.blocks), store)
    for i, part in enumerate(model.blocks):
        kept.put(i, model.hidden)
        _run_forward(part, model.hidden, on, forward, bf16=bf16)
    assert model.tail is not None
    grads = HiddenStates(model.hidden[0], len(windows), store)
    yield from _backward_block(model.tail, model.hidden, grads, windows, on, is_head=True, bf16=bf16)
    model.hidden.clear()
    for i, part in reversed(list(enumerate(model.blocks))):
        yield from _backward_block(part, kept.take(i), grads, windows, on, bf16=bf16)


def _run_forward(
    part: Part,
    hidden: HiddenStates,
    device: torch.device,
    forward: Callable[[Block], None] | None,
    *,
    bf16: bool,
) -> None:
    part.load(device)
    block = Block(part, hidden, bf16=bf16)
    if forward is not None:
        forward(block)
    if not block.advanced:
        block.advance()
    part.release()


def _backward_block(
    part: Part,
    hidden: HiddenStates,
    grads: HiddenStates,
    windows: NDArray[np.int64],
    device: torch.device,
    **kind: bool,
) -> Iterator[BackwardBlock]:
    part.load(device)
    block = BackwardBlock(part, hidden, grads, **kind)
    yield block
    block.finish(windows)
    part.release()


def _check_has_loss(checkpoint: Checkpoint) -> None:
    if architecture_of(checkpoint).encoder:
        raise PatchCompileError(
            f"{checkpoint.path} has no next-token loss",
            f"It is an encoder ({checkpoint.config['model_type']}), which predicts no text.",
            "Rank tiles by a criterion that needs no loss: relative, raw or magnitude.",
        )


class _KeptInputs:
    """Inputs of every block, in memory or in files."""

    def __init__(self, hidden: HiddenStates, blocks: int, store: Path | None) -> None:
        size = hidden[0].nbytes * len(hidden) * blocks
        self._store = store
        self._on_disk = size > _KEPT_BYTES
        self._inputs: dict[int, HiddenStates] = {}
        if self._on_disk:
            check_space(size, store)

    def put(self, block: int, hidden: HiddenStates) -> None:
        """Keep the inputs of a block."""
        kept = HiddenStates(hidden[0], len(hidden), self._store, on_disk=self._on_disk or None)
        for i, window in enumerate(hidden):
            kept[i] = window
        self._inputs[block] = kept

    def take(self, block: int) -> HiddenStates:
        """The inputs of a block, once."""
        return self._inputs.pop(block)
