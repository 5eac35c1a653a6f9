"""Held-out text as windows of tokens. The user gives the text, or the dense model writes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn import first_windows, open_text, write_text
from masklearn.model.architectures import architecture_of, longest_window
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.pretrained import load_config
from patch_compile.artifacts.manifest import EvalText
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe

__all__ = ["encoder_windows", "evaluation_windows"]

_EVAL_SEED_OFFSET = 1  # text of the unchanged seed may be the calibration text


def evaluation_windows(r: Recipe, tokenizer: Any, progress: Progress) -> tuple[NDArray[np.int64], EvalText]:
    """Returns windows `[eval_windows, eval_length]`, and name and path of their text.

    The windows are shorter if the model has fewer learned positions.
    """
    length = _reachable_length(r, progress)
    if r.eval_text is not None:
        return _windows_of(r.eval_text, r, tokenizer, length)
    progress.note(
        "evaluation text: the dense model writes its own (no --eval given); perplexity on it is not that on real text"
    )
    with progress.stage("evaluation text") as update:
        windows = write_text(r.model, r.eval_windows, length, r.seed + _EVAL_SEED_OFFSET, update)
    return windows, EvalText(name="text written by the dense model", path=None)


def encoder_windows(r: Recipe, tokenizer: Any, progress: Progress) -> tuple[NDArray[np.int64], EvalText]:
    """Returns windows as `evaluation_windows` does, but from the calibration text if no other is given: an encoder writes
    none."""
    text = r.eval_text or r.calib
    assert text is not None  # `EncoderSource.check` has refused it
    if r.eval_text is None:
        progress.note(
            "evaluation text: that of the calibration (no --eval given, and an encoder writes none)"
        )
    return _windows_of(text, r, tokenizer, _reachable_length(r, progress))


def _windows_of(text: str, r: Recipe, tokenizer: Any, length: int) -> tuple[NDArray[np.int64], EvalText]:
    source = open_text(text)
    windows = first_windows(tokenizer, text, length, r.eval_windows)
    return windows, EvalText(name=source.name, path=source.spec)


def _reachable_length(r: Recipe, progress: Progress) -> int:
    """Returns eval_length, or the number of learned positions if that is smaller."""
    checkpoint = Checkpoint.open(r.model)
    longest = longest_window(architecture_of(checkpoint), load_config(checkpoint.path))
    if longest is None or r.eval_length <= longest:
        return r.eval_length
    progress.note(f"evaluation text: windows of {longest} tokens, as far as the positions of the model reach")
    return longest
