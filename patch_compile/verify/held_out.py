"""Held-out text, as token windows: what the user gives, or what the dense model writes itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.calibrate import first_windows
from masklearn.selftext import write_text
from masklearn.text import open_text
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe

__all__ = ["evaluation_windows"]

_EVAL_SEED_OFFSET = 1  # text of the same seed may have been used to calibrate


def evaluation_windows(
    r: Recipe, tokenizer: Any, progress: Progress
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Windows `[eval_windows, eval_length]`, and the name and path of their text."""
    if r.eval_text is not None:
        windows = first_windows(tokenizer, r.eval_text, r.eval_length, r.eval_windows)
        source = open_text(r.eval_text)
        return windows, {"name": source.name, "path": source.spec}
    progress.note(
        "evaluation text: the dense model writes its own (no --eval given); perplexity on it is not that on real text"
    )
    with progress.stage("evaluation text") as update:
        windows = write_text(r.model, r.eval_windows, r.eval_length, r.seed + _EVAL_SEED_OFFSET, update)
    return windows, {"name": "text written by the dense model", "path": None}
