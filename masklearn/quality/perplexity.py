"""Computes perplexity: exp of the mean negative log-likelihood over non-overlapping windows."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.model.architectures import architecture_of_config, check_window
from masklearn.model.modules import LogitRule
from masklearn.stream.logits import perplexity_of, token_losses


def perplexity(
    model: Any, windows: NDArray[np.int64], progress: Callable[[str, int, int], object] | None = None
) -> float:
    """Returns the perplexity of a Hugging Face causal language model over `windows` `[count, length]`.

    Every token of a window but the first is predicted. Losses come from fp32 logits and are summed in fp64, whatever
    the model's dtype. The perplexity is infinity if it overflows. Raises MaskLearnError as `window_losses` does.
    """
    total = 0.0
    for done, loss in enumerate(window_losses(model, windows), start=1):
        total += loss
        if progress is not None:
            progress("perplexity", done, len(windows))
    return perplexity_of(total, windows.shape[0] * (windows.shape[1] - 1))


def window_losses(model: Any, windows: NDArray[np.int64]) -> Iterator[float]:
    """Yield the summed negative log-likelihood of each window in nats.

    Raises MaskLearnError if the model is an encoder, or has fewer learned positions than a window has tokens.
    """
    head, rule = _head(model), LogitRule.of(model.config)
    logits = head if rule is None else torch.nn.Sequential(head, rule)
    check_window(architecture_of_config(model.config), model.config, windows.shape[1])
    device = model.get_input_embeddings().weight.device
    for window in windows:
        ids = torch.from_numpy(window).to(device)
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0, :-1]
            yield math.fsum(float(loss) for _, loss in token_losses(logits, hidden, ids[1:]))


def _head(model: Any) -> torch.nn.Module:
    head: torch.nn.Module | None = model.get_output_embeddings()
    if head is None:
        raise MaskLearnError(
            f"A {model.config.model_type} model has no perplexity",
            "It is an encoder, which predicts no text.",
            "Compare its outputs instead.",
        )
    return head
