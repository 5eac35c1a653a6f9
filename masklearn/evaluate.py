"""Perplexity: exp of the mean negative log-likelihood over non-overlapping windows."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.checkpoint import Checkpoint
from masklearn.maskset import MaskSet

__all__ = ["Perplexity", "load_model", "perplexity", "window_losses"]

_HEAD_CHUNK = 256  # tokens whose logits exist at once: 256 x 128k vocabulary in fp32 is 134 MB


@dataclass(frozen=True)
class Perplexity:
    """A figure and what it was measured on: windows of length tokens, tokens predicted, dtype of the model."""

    value: float
    windows: int
    length: int
    tokens: int
    dtype: str


def perplexity(
    model: Any, windows: NDArray[np.int64], progress: Callable[[str, int, int], object] | None = None
) -> Perplexity:
    """Perplexity of a Hugging Face causal language model over `windows` `[count, length]`.

    In each window every token but the first is predicted; losses are summed in fp32 logits and fp64 sums,
    whatever the model's dtype. infinite when the loss overflows.
    """
    total = 0.0
    for done, loss in enumerate(window_losses(model, windows), start=1):
        total += loss
        if progress is not None:
            progress("perplexity", done, len(windows))
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    mean = total / tokens
    value = math.exp(mean) if mean < 700 else math.inf
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return Perplexity(value, windows.shape[0], windows.shape[1], tokens, dtype)


def window_losses(model: Any, windows: NDArray[np.int64]) -> Iterator[float]:
    """Summed negative log-likelihood of each window, in nats, one window at a time."""
    head = model.get_output_embeddings()
    device = head.weight.device
    for window in windows:
        ids = torch.from_numpy(window).to(device)
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0, :-1]
            starts = range(0, hidden.shape[0], _HEAD_CHUNK)
            chunks = ((hidden[i : i + _HEAD_CHUNK], ids[1:][i : i + _HEAD_CHUNK]) for i in starts)
            yield math.fsum(_loss(head(states), labels) for states, labels in chunks)


def load_model(
    model_dir: str | Path, masks: MaskSet | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """A local model in eval mode, with pruned weights set to zero when `masks` are given."""
    from transformers import AutoModelForCausalLM

    Checkpoint.open(model_dir)  # its errors are better than those of transformers
    with _without_bars():  # progress is the caller's
        model = AutoModelForCausalLM.from_pretrained(
            str(model_dir), dtype=dtype, local_files_only=True
        ).eval()
    if masks is not None:
        linears = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        masks.check_covers(
            {name: (m.out_features, m.in_features) for name, m in linears.items() if name in masks}
        )
        for name, mask in masks.items():
            linears[name].weight.data.masked_fill_(torch.from_numpy(~mask.keep()), 0.0)
    return model


@contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum"))
