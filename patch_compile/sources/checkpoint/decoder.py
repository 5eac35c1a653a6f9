"""Decoders as sources. They predict next tokens, and are therefore compared on text."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from masklearn.model.pretrained import cache_argument
from patch_compile.artifacts.manifest import EvalText
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.tensor_names import PAST
from patch_compile.progress import Progress
from patch_compile.runtime.model_configs import read_model_configs
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.sources.base import Stage, TokenSource
from patch_compile.sources.checkpoint.references import evaluation_windows, load_as_compiled
from patch_compile.sources.checkpoint.source import CheckpointSource

_PROOF_TOKENS = 95  # of a prompt


class DecoderSource(CheckpointSource, TokenSource):
    """A checkpoint with a language-model head."""

    @override
    def write_beside(self, onnx: Path) -> None:
        """Write the files that onnxruntime-genai needs."""
        from patch_compile.sources.checkpoint.genai import write_genai

        write_genai(self.model, onnx)

    @override
    def check(self, stages: Collection[Stage]) -> None:
        if Stage.ONNX in stages:
            read_model_configs(self.model)  # `write_beside` reads them again
        super().check(stages)

    @override
    def check_evaluation(self) -> None:
        from masklearn import check_writes

        if self.recipe.eval_text is None:
            check_writes(self.checkpoint)

    @override
    def evaluation(self, progress: Progress) -> tuple[NDArray[np.int64], EvalText]:
        """Returns windows of the evaluation text. The model writes the text itself if none is given."""
        return evaluation_windows(self.recipe, self.tokenizer, progress)

    @override
    def proof_feed(self, hybrid: Path, progress: Progress) -> Feed:
        windows, _ = self.evaluation(progress)
        decoder = OnnxDecoder(hybrid)
        return decoder.feed(windows[:1, :_PROOF_TOKENS], decoder.empty_cache(1))

    @override
    def reference_logits(
        self, model: Path, *, sixteen_bits: bool = False
    ) -> Callable[[Feed], NDArray[np.float32]]:
        """Returns logits by transformers, with weights as in the graph, and arithmetic in fp32 or in the type of the
        graph."""
        masks = None if model == self.model else self.recipe.mask
        streamed = not self.fits_in_memory
        loaded = load_as_compiled(
            model, self.recipe.dtype, masks, sixteen_bits=sixteen_bits, streamed=streamed
        )
        cached = self.recipe.dtype if sixteen_bits else "float32"
        return lambda feed: _logits(loaded, feed, cached)


def _logits(model: Any, feed: Feed, cached: str) -> NDArray[np.float32]:
    """Returns logits `[batch, sequence, vocabulary]`. The feed contains the caches of earlier tokens. cached: their type."""
    import torch
    from transformers import DynamicCache

    given = {name: torch.from_numpy(np.asarray(value)) for name, value in feed.items()}
    cache = DynamicCache(config=model.config)
    for layer in range(model.config.get_text_config().num_hidden_layers):
        key, value = (
            given.pop(f"{PAST}{layer}.{part}").to(getattr(torch, cached)) for part in ("key", "value")
        )
        if key.shape[2]:
            cache.update(key, value, layer)
    with torch.no_grad():
        logits: NDArray[np.float32] = model(**given, **{cache_argument(model): cache}).logits.float().numpy()
    return logits
