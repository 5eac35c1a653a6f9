"""Compares the logits of dense and hybrid model on held-out text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.quality.predictions import Predictions
from patch_compile.onnx_io.arrays import load_array
from patch_compile.runtime.decoder import check_finite

__all__ = ["compare_logits"]


def compare_logits(dense: list[Path], hybrid: list[Path], windows: NDArray[np.int64]) -> Predictions:
    """Compare the logits of two models. Each has one file `[length, vocabulary]` per window of tokens `[count, length]`.

    Raises LogitsError that names the model if logits are not finite.
    """
    found = Predictions()
    for dense_file, hybrid_file, window in zip(dense, hybrid, windows, strict=True):
        p, q = load_array(dense_file), load_array(hybrid_file)
        check_finite(p, "The dense model")
        check_finite(q, "The hybrid model")
        found.add(torch.from_numpy(p[:-1]), torch.from_numpy(q[:-1]), torch.from_numpy(window[1:]))
    return found
