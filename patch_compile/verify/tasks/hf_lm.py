"""A checkpoint run by transformers, as lm-evaluation-harness asks it: the harness's own class, with progress of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from masklearn.checkpoint.models import load_model
from masklearn.checkpoint.pretrained import load_tokenizer
from masklearn.device import usable_device
from patch_compile.verify.tasks.batching import rows_at_once

__all__ = ["HuggingFaceLM"]

Update = Callable[[str, int, int], object]


class HuggingFaceLM(HFLM):  # type: ignore[misc]
    """A model folder. Its weights are rounded to the type of the build; a CPU, which is slow or inexact in 16 bits,
    computes with them in fp32."""

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
        """See the harness."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scores

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """See the harness."""
        scores: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        return scores

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """See the harness."""
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
        """Reckoned, where the harness would try; requests: name, context and continuation each, the longest at `pos`."""
        length = len(requests[pos][1]) + len(requests[pos][2]) if requests else self.max_length
        return rows_at_once(length, len(self.tokenizer))

    def _model_call(self, inps: torch.Tensor, *rest: Any, **settings: Any) -> torch.Tensor:
        self._update("text", self._done, self._total)
        self._done += len(inps)
        logits: torch.Tensor = super()._model_call(inps, *rest, **settings)
        return logits
