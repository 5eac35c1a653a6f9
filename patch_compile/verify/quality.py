"""Pruned how much? Dense and hybrid model side by side on held-out text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError
from patch_compile.runtime.decoder import Logits

__all__ = ["Quality", "compare_logits"]


@dataclass
class Quality:
    """Sums over predicted tokens; NLL and KL in nats, accumulated in fp64."""

    tokens: int = 0
    nll_dense: float = 0.0
    nll_hybrid: float = 0.0
    kl: float = 0.0
    same_top1: int = 0
    window_nll: list[tuple[float, float]] = field(default_factory=list)

    def add(self, dense: Logits, hybrid: Logits, targets: NDArray[np.int64]) -> None:
        """Count one window: logits `[length - 1, vocabulary]` of both models and the tokens that follow."""
        log_p, log_q = _log_softmax(dense), _log_softmax(hybrid)
        rows = np.arange(len(targets))
        nll = float(-log_p[rows, targets].sum()), float(-log_q[rows, targets].sum())
        self.tokens += len(targets)
        self.nll_dense += nll[0]
        self.nll_hybrid += nll[1]
        self.kl += float((np.exp(log_p) * (log_p - log_q)).sum(dtype=np.float64))
        self.same_top1 += int((dense.argmax(-1) == hybrid.argmax(-1)).sum())
        self.window_nll.append(nll)

    @property
    def perplexity(self) -> tuple[float, float]:
        """exp(mean NLL) of the dense and the hybrid model."""
        dense, hybrid = np.exp([self.nll_dense / self.tokens, self.nll_hybrid / self.tokens])
        return float(dense), float(hybrid)


def compare_logits(dense: list[Path], hybrid: list[Path], windows: NDArray[np.int64]) -> Quality:
    """Compare two models' logits, one file `[length, vocabulary]` per window `[count, length]` of tokens.

    Raises PatchCompileError when logits are not finite, naming the model.
    """
    quality = Quality()
    for dense_file, hybrid_file, window in zip(dense, hybrid, windows, strict=True):
        p, q = np.load(dense_file), np.load(hybrid_file)
        _check_finite("dense", p)
        _check_finite("hybrid", q)
        quality.add(p[:-1], q[:-1], window[1:])
    return quality


def _check_finite(kind: str, logits: Logits) -> None:
    if not np.isfinite(logits).all():
        raise PatchCompileError(
            f"the {kind} model's logits are not finite",
            "an activation overflowed fp16",
            "build with --dtype bfloat16",
        )


def _log_softmax(logits: Logits) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_p
