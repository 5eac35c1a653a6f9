"""Compares the logits of streamed blocks with the logits of a whole model."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from masklearn.model.checkpoint import Checkpoint
from masklearn.stream.blocks import stream_blocks


def check_logits(
    path: Path, whole: nn.Module, windows: Any, rtol: float = 1e-4, **options: Any
) -> list[bool]:
    """Returns whether each block was the head. options: of `stream_blocks`."""
    heads = []
    with torch.no_grad():
        for block in stream_blocks(Checkpoint.open(path), windows, "cpu", head=True, **options):
            heads.append(block.is_head)
            if block.is_head:
                for window, hidden in zip(torch.from_numpy(windows), block.hidden, strict=True):
                    expected = whole(window[None]).logits
                    torch.testing.assert_close(block.run(hidden), expected, rtol=rtol, atol=1e-4)
    return heads
