"""Runs a model block by block over calibration windows, with the weights of one block in memory."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.base.device import usable_device
from masklearn.base.errors import MaskLearnError
from masklearn.model.architectures import architecture_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.stream.block_parts import BlockModel, Part
from masklearn.stream.hidden_states import HiddenStates
from masklearn.stream.pass_checkpoints import PassCheckpoints

__all__ = ["Block", "check_has_loss", "stream_blocks"]


class Block:
    """One block with its weights in memory, and its inputs for all windows.

    Register forward hooks on the linears, then call `forward` or `advance`.

    module: the block, fp32, on the run's device; linears: its `nn.Linear`s by checkpoint name (weights [N, K],
    whatever the checkpoint's layout); hidden: its inputs, `[1, length, hidden]` per window; call: keyword arguments
    of the block besides the hidden states; is_head: True for the final norm and output head, which return logits.
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
        """Returns the block's output for `hidden` `[1, length, hidden]`, with gradients if the caller enables them."""
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=self._bf16):
            output = self.module(hidden, **self.call)
        return output if isinstance(output, torch.Tensor) else output[0]

    @torch.no_grad()
    def forward(self) -> None:
        """Run every window through the block to trigger hooks. The outputs are discarded."""
        for hidden in self.hidden:
            self.run(hidden)

    @torch.no_grad()
    def advance(self) -> None:
        """Run every window through the block and replace `hidden` by the outputs, the inputs of the next block.

        Raises RuntimeError at the second call.
        """
        if self.advanced:
            raise RuntimeError("the block has been advanced: its inputs are gone")
        for i, hidden in enumerate(self.hidden):
            output = self.run(hidden)
            if not self.is_head:  # the logits of all windows would take far more memory than anything else
                self.hidden[i] = output
        self.advanced = True


def stream_blocks(
    checkpoint: Checkpoint,
    windows: NDArray[np.int64],
    device: str | None = None,
    only: Collection[str] | None = None,
    *,
    head: bool = False,
    store: Path | None = None,
    bf16: bool = False,
    checkpoints: PassCheckpoints | None = None,
) -> Iterator[Block]:
    """Yield the model's blocks in order, each with its weights read from the checkpoint in fp32.

    The current block is advanced (unless the caller did so) and its memory freed when the caller asks for the next one.
    Memory: one block (at first the embedding) and the hidden states of all windows (see `HiddenStates`).

    windows: token ids `[count, length]`; device: None for CUDA if there is one, else the CPU; only: names of the
    linears that the caller needs, None for all blocks: blocks after the last of these linears do not run, and the final
    norm and output head follow as a last block if they hold one of them; head: yield that last block in any case;
    store: folder for hidden states that do not fit in memory, None for the system's temporary folder; bf16: run linears
    in bf16 under autocast; checkpoints: saved after each block, and an interrupted pass resumes from them: blocks that
    they hold are not yielded.

    Raises MaskLearnError if a weight is missing, has a wrong shape, or holds NaN or infinity, if the windows do not
    fit the model, or if `head` is asked of an encoder.
    """
    if head:
        check_has_loss(checkpoint)
    on = usable_device(device)
    if checkpoints is not None and checkpoints.complete:
        return
    model = BlockModel(checkpoint, windows, on, store)
    parts = model.needed(only, head=head)
    done = checkpoints.start(model.hidden, len(parts)) if checkpoints is not None else 0
    for part in parts[done:]:
        part.load(on)
        block = Block(part, model.hidden, is_head=part is model.tail, bf16=bf16)
        yield block
        if not block.advanced:
            block.advance()
        part.release()
        if checkpoints is not None:
            checkpoints.finish(None if part is parts[-1] else model.hidden)


def check_has_loss(checkpoint: Checkpoint) -> None:
    """Raises MaskLearnError for an encoder."""
    if architecture_of(checkpoint).encoder:
        raise MaskLearnError(
            f"{checkpoint.path} has no next-token loss",
            f"It is an encoder ({checkpoint.config['model_type']}), which predicts no text.",
            "Rank tiles by a criterion that needs no loss: relative, raw or magnitude.",
        )
