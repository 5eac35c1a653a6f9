"""Runs a checkpoint for lm-evaluation-harness by its class for transformers, with progress reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from masklearn.base.device import usable_device
from masklearn.model.models import load_model
from masklearn.model.pretrained import load_tokenizer
from patch_compile.verification.tasks.batching import rows_at_once

__all__ = ["HuggingFaceLM"]

Update = Callable[[str, int, int], object]


class HuggingFaceLM(HFLM):  # type: ignore[misc]
    """A model folder as a model of the harness.

    Weights are rounded to the type of the build. A CPU computes with them in fp32, because 16-bit types are slow or
    inexact there.
    """

    def __init__(self, folder: Path, dtype: str, device: str | None, update: Update) -> None:
        place = usable_device(device)
        model = load_model(folder, dtype=getattr(torch, dtype))
        super().__init__(
            (model.float() if place.type == "cpu" else model).to(place),
            tokenizer=load_tokenizer(folder),
            batch_size="auto",
        )
        self._update = update
        self._done = self._total = 0

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score continuations; see the harness."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scores

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Score whole texts; see the harness."""
        scores: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        return scores

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Continue texts; see the harness."""
        texts: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        return texts

    def _loglikelihood_tokens(
        self, requests: list[Any], *_: Any, **settings: Any
    ) -> list[tuple[float, bool]]:
        self._done, self._total = 0, len(requests)
        scores: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, **settings | {"disable_tqdm": True}
        )
        return scores

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        """Compute the batch size, which the harness would find by trial.

        requests: name, context and continuation of each, with the longest at `pos`.
        """
        length = len(requests[pos][1]) + len(requests[pos][2]) if requests else self.max_length
        return rows_at_once(length, len(self.tokenizer))

    def _model_call(self, inps: torch.Tensor, *rest: Any, **settings: Any) -> torch.Tensor:
        self._update("text", self._done, self._total)
        self._done += len(inps)
        logits: torch.Tensor = super()._model_call(inps, *rest, **settings)
        return logits
