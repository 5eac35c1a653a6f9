"""Compares two models' predictions of the same tokens: perplexities, divergence, and errors of single logits."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from masklearn.base.threads import total
from masklearn.stream.logits import log_probabilities, perplexity_of, token_kl, token_nll

__all__ = ["LogitErrors", "Predictions"]

# Bins of the histogram of |error|, from 1e-12 to 1e6: with 128 per factor of ten the median is exact to 1 %.
_DECADES, _BINS_A_DECADE = (-12, 6), 128
_BINS = (_DECADES[1] - _DECADES[0]) * _BINS_A_DECADE


@dataclass
class Predictions:
    """Sums over predicted tokens. NLL and KL(dense ‖ pruned) are in nats."""

    tokens: int = 0
    nll_dense: float = 0.0
    nll_pruned: float = 0.0
    kl: float = 0.0
    same_top1: int = 0

    def add(self, dense: Tensor, pruned: Tensor, labels: Tensor) -> None:
        """Add predictions: both models' logits, fp32 `[tokens, vocabulary]`, and the true tokens `[tokens]`."""
        log_p, log_q = log_probabilities(dense), log_probabilities(pruned)
        self.tokens += len(labels)
        self.nll_dense += float(token_nll(log_p, labels).sum(dtype=torch.float64))
        self.nll_pruned += float(token_nll(log_q, labels).sum(dtype=torch.float64))
        self.kl += float(token_kl(log_p, log_q).sum(dtype=torch.float64))
        self.same_top1 += int((dense.argmax(-1) == pruned.argmax(-1)).sum())

    @property
    def perplexity(self) -> tuple[float, float]:
        """Perplexities of the dense and the pruned model."""
        return perplexity_of(self.nll_dense, self.tokens), perplexity_of(self.nll_pruned, self.tokens)


@dataclass
class LogitErrors:
    """Sums over single logits of |pruned − dense|."""

    scale: float = 0.0  # largest |logit| of the dense model
    largest: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    logits: int = 0
    histogram: Tensor = field(default_factory=lambda: torch.zeros(_BINS, dtype=torch.int64))

    def add(self, dense: Tensor, pruned: Tensor) -> None:
        """Add the logits of both models, fp32, of any shape."""
        error = (pruned - dense).abs()
        self.scale = max(self.scale, float(dense.abs().max()))
        self.largest = max(self.largest, float(error.max()))
        self.absolute += float(total(error.double()))
        self.squared += float(total(error.double().square()))
        self.logits += error.numel()
        first, last = _DECADES
        exponents = error.clamp(10.0**first, 10.0**last * 0.999).log10()
        self.histogram += torch.histc(exponents, _BINS, first, last).to("cpu", torch.int64)

    def stats(self) -> dict[str, float]:
        """Returns max, mean, median (to 1 %) and rms of the errors, and `scale`, the largest dense |logit|."""
        half = int(torch.searchsorted(self.histogram.cumsum(0), (self.logits + 1) // 2))
        return {
            "max": self.largest,
            "mean": self.absolute / self.logits,
            "median": 10.0 ** (_DECADES[0] + (half + 0.5) / _BINS_A_DECADE),
            "rms": math.sqrt(self.squared / self.logits),
            "scale": self.scale,
        }
